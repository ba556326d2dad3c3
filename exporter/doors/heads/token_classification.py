"""The class of each token."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="token-classification",
    loaders=("AutoModelForTokenClassification",),
    outputs=("logits",),
)
