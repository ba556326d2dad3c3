"""An image made better, as super-resolution does it."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="image-to-image",
    loaders=("AutoModelForImageToImage",),
    outputs=("reconstruction",),
)
