"""One embedding of a text, as sentence-transformers pools it; folders with modules.json are of this task."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="sentence-similarity",
    loaders=("AutoModel",),
    outputs=("sentence_embedding",),
    inputs=("input_ids", "attention_mask", "token_type_ids"),
)
