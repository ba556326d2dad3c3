"""Sessions: a model with one text. One protocol (``session.py``), one file for each way to compute it."""
