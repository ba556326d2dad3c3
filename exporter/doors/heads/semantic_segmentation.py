"""The class of each pixel."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="semantic-segmentation",
    loaders=("AutoModelForSemanticSegmentation",),
    outputs=("logits",),
    synonyms=("image-segmentation",),
)
