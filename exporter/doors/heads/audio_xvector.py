"""A speaker's embedding."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="audio-xvector",
    loaders=("AutoModelForAudioXVector",),
    outputs=("logits", "embeddings"),
)
