"""The static graph that a target gets of a bundle that has one graph, or the two of an encoder and a decoder."""
