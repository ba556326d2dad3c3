"""What has to see text: calibration, budgets, pruning."""
