"""Everything that is known before a weight is read."""
