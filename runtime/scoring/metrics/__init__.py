"""Metrics, one file each, its name the metric's with underscores; it ends in ``METRIC``."""
