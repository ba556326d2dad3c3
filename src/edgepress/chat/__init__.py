"""Conversations as the tokens that a model was trained to see: templates, and what users may not forge in them."""
