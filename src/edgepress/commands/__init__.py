"""The verbs of the command line, one file each: ``NAME``, ``HELP``, ``add_arguments``, ``run``."""
