"""Calibration: run text through the model one decoder layer at a time, for the methods that need it.

:mod:`.engine` runs the layers and calls the methods, :mod:`.run` calibrates one export, :mod:`.generate` samples text
from the model where none is given. Finished stages are kept on disk, so that a killed run resumes. Needs torch.
"""
