"""Boxes of what some texts name in an image."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="zero-shot-object-detection",
    loaders=("AutoModelForZeroShotObjectDetection",),
    outputs=("logits", "pred_boxes"),
    inputs=("input_ids", "attention_mask", "token_type_ids", "pixel_values"),
)
