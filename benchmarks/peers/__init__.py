"""Other tools on the same checkpoints. Nothing is imported here: a process that times one has only that one in it."""
