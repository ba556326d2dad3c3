"""A video's classes."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="video-classification",
    loaders=("AutoModelForVideoClassification",),
    outputs=("logits",),
)
