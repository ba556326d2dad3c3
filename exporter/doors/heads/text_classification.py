"""A text's classes, or a pair's score."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="text-classification",
    loaders=("AutoModelForSequenceClassification",),
    outputs=("logits",),
    synonyms=("sequence-classification", "zero-shot-classification"),
)
