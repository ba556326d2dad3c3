"""What stands before and behind a graph, read from the files that a checkpoint ships."""
