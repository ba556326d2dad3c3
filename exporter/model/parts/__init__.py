"""What descriptions of models are made of, and walks through them."""
