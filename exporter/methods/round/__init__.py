"""Methods that make codes of weights, one file each."""
