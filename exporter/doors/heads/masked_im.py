"""Masked patches of an image."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="masked-im",
    loaders=("AutoModelForMaskedImageModeling",),
    outputs=("reconstruction", "logits"),
    synonyms=("masked-image-modeling",),
)
