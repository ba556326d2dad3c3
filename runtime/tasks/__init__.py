"""What an open bundle answers: one file for each task, its name the task's with underscores."""
