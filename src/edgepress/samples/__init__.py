"""Samples of a task's inputs, with their labels: what is calibrated on, and what is evaluated."""
