"""Steps that make a smaller checkpoint before anything is rounded, one file each."""
