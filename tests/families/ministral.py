"""Tiny checkpoints of Ministral."""

from variants import Variant

VARIANTS = {
    "ministral": Variant(
        "ministral",
        {
            "head_dim": 32,
            "sliding_window": 16,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
    "ministral-full": Variant(
        "ministral", {"head_dim": 16, "layer_types": ["full_attention"] * 3, "tie_word_embeddings": True}
    ),
}
METHODS = ()
