"""What the classes of several tasks share."""
