"""Whether one sentence follows another."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="next-sentence-prediction",
    loaders=("AutoModelForNextSentencePrediction",),
    outputs=("logits",),
)
