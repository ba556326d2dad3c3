"""Methods that work on the graph of any model: one file each, ending in ``METHOD``; see :mod:`..kinds`."""
