"""Graphs that nobody here wrote: what their weights are for, and the same graph with weights as a plan stores them."""
