"""Methods that mend what rounding did, one file each."""
