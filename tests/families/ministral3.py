"""Tiny checkpoints of Ministral 3."""

from variants import YARN, Variant

_GROWN = YARN | {
    "original_max_position_embeddings": 16,  # so that the queries grow several times
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.5,
}

VARIANTS = {
    "ministral3": Variant("ministral3", {"head_dim": 32, "tie_word_embeddings": True, "rope_parameters": _GROWN}),
    "ministral3-window": Variant(  # heads of 24: rotated by a node of their own
        "ministral3", {"head_dim": 24, "sliding_window": 16, "rope_parameters": _GROWN}
    ),
}
METHODS = ("ministral3",)
