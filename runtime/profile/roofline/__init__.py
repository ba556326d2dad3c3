"""A device's roofline, measured: what a bundle's graph moves and computes, kernels alone, and figures from both."""
