"""Which of some texts fits an image, or a video, by two towers whose embeddings are given too."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="zero-shot-image-classification",
    loaders=("AutoModelForZeroShotImageClassification",),
    outputs=("logits_per_image", "logits_per_video", "text_embeds", "image_embeds", "video_embeds"),
    inputs=("input_ids", "attention_mask", "pixel_values"),
)
