"""Text through a model, a layer at a time, forwards and back, and what learns from it."""
