"""What a user sees: progress, tables, and streams that may be closed."""
