"""Several answers to one prompt, and the choice among them, within a budget."""
