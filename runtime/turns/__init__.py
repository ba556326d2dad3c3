"""Conversations with an open bundle: turns, tools that are called between them, and what is known from before."""
