"""What a model makes of a text before any head; see the other feature extractions for what is no text."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="feature-extraction",
    loaders=("AutoModel", "AutoModelForTextEncoding"),
    outputs=("last_hidden_state", "pooler_output", "text_embeds", "image_embeds"),
    synonyms=("default",),
)
