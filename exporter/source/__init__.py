"""What the user has: where a model is, its stored files and its config."""
