"""Text and tokens: documents, tokenizers and the windows that are scored."""
