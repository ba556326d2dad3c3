"""Methods that reduce the error of rounding after it, one file each."""
