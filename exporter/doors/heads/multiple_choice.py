"""Which of several texts goes on."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="multiple-choice",
    loaders=("AutoModelForMultipleChoice",),
    outputs=("logits",),
)
