"""Images, sound and text as arrays, the way a task says it, with numpy alone and what decodes files."""
