"""How families write a call of a tool, a file for each; the file's name is the format's."""
