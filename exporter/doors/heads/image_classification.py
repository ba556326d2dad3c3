"""An image's classes."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="image-classification",
    loaders=("AutoModelForImageClassification",),
    outputs=("logits",),
)
