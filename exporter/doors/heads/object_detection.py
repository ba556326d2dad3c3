"""The objects in an image, and a box around each."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="object-detection",
    loaders=("AutoModelForObjectDetection",),
    outputs=("logits", "pred_boxes"),
)
