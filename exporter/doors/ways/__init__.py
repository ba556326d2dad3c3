"""Doors: one file each, found on disk by :mod:`edgepress.exporter.doors.kinds`."""
