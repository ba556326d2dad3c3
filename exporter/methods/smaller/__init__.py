"""What the pruning steps share: a smaller checkpoint as rows and columns of a larger one, its config and its files."""
