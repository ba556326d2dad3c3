"""The objects in an image, and the pixels of each."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="instance-segmentation",
    loaders=("AutoModelForInstanceSegmentation", "AutoModelForUniversalSegmentation", "AutoModelForImageSegmentation"),
    outputs=("class_queries_logits", "masks_queries_logits", "logits", "pred_boxes", "pred_masks"),
    synonyms=("image-segmentation", "universal-segmentation", "panoptic-segmentation"),
)
