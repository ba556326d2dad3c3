"""Which of some texts fits an image, by two towers whose embeddings are given too."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="zero-shot-image-classification",
    loaders=("AutoModelForZeroShotImageClassification",),
    outputs=("logits_per_image", "text_embeds", "image_embeds"),
    inputs=("input_ids", "attention_mask", "pixel_values"),
)
