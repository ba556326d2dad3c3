"""A bundle that is written, read again: its weights, what inspect prints, what zeros save of it."""
