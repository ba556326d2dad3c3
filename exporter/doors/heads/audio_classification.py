"""A sound's classes."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="audio-classification",
    loaders=("AutoModelForAudioClassification",),
    outputs=("logits",),
)
