"""A smaller checkpoint as picks from a larger one: its tensors, its config, its files."""
