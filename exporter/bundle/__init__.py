"""What is shipped: the files of a bundle, how they are written and read back."""
