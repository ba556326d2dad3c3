"""Runs text through a model a layer at a time, forward and backward, for calibration, pruning and training."""
