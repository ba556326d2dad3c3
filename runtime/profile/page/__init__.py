"""One HTML page of a profile: no scripts, nothing fetched, pictures drawn as SVG with their figures in tables below."""
