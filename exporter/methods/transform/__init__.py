"""Methods that change weights so that rounding loses less, while the model computes the same, one file each."""
