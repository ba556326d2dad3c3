"""The answer to a question about an image, as a class."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="visual-question-answering",
    loaders=("AutoModelForVisualQuestionAnswering",),
    outputs=("logits",),
    inputs=("input_ids", "attention_mask", "token_type_ids", "pixel_values"),
)
