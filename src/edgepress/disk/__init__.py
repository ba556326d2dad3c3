"""Files and folders: written whole, recognised, hashed, cached, and never followed out of a folder."""
