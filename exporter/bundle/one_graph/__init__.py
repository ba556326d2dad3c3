"""The static graph that a target gets of a bundle that has one graph."""
