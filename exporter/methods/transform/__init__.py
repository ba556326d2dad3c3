"""Methods that prepare weights for rounding and change nothing of what the model computes, one file each."""
