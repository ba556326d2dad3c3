"""What runs the model on text: calibration, mixed precision by a budget, pruning."""
