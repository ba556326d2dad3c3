"""What running the written weights on some text finds: what overflows, and how large keys and values are."""
