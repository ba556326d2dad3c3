"""Passes: one file each, ending in ``PASS``; see :mod:`edgepress.runtime.profile.passing`."""
