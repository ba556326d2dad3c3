"""Checkpoints made smaller before any weight is rounded: steps that turn one checkpoint into another."""
