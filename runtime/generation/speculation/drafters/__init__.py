"""Drafters, one file each: ``DRAFTER`` opens one for a text."""
