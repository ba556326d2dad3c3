"""What a model makes of a sound before any head."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="audio-feature-extraction",
    loaders=("AutoModel",),
    outputs=("last_hidden_state", "pooler_output"),
)
