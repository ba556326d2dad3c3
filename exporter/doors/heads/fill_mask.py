"""Tokens for masked places."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="fill-mask",
    loaders=("AutoModelForMaskedLM",),
    outputs=("logits",),
    synonyms=("masked-lm",),
)
