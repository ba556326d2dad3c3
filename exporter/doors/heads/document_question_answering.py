"""Where on a page the answer is."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="document-question-answering",
    loaders=("AutoModelForDocumentQuestionAnswering",),
    outputs=("start_logits", "end_logits"),
    inputs=("input_ids", "attention_mask", "token_type_ids", "bbox", "pixel_values", "image"),
)
