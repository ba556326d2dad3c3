"""Tokenizers: a checkpoint's whole tokenizer, and one with fewer tokens."""
