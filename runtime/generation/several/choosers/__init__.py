"""How one of several answers is chosen: a file each, ending in ``CHOOSER``."""
