"""A graph beside the model that it was made from."""
