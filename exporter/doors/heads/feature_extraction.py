"""What a model makes of its input before any head."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="feature-extraction",
    loaders=("AutoModel", "AutoModelForTextEncoding"),
    outputs=("last_hidden_state", "pooler_output", "text_embeds", "image_embeds"),
    synonyms=("default", "image-feature-extraction"),
)
