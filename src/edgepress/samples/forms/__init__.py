"""The forms in which samples come, one file each, which ends in ``FORM``."""
