"""Where in a text the answer is."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="question-answering",
    loaders=("AutoModelForQuestionAnswering",),
    outputs=("start_logits", "end_logits"),
)
