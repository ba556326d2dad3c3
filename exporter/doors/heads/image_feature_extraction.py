"""What a model makes of an image before any head."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="image-feature-extraction",
    loaders=("AutoModel",),
    outputs=("last_hidden_state", "pooler_output", "image_embeds"),
)
