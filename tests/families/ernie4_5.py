"""Tiny checkpoints of ERNIE 4.5."""

from variants import LINEAR, Variant, version_4

VARIANTS = {
    "ernie4_5": Variant(
        "ernie4_5",
        {"head_dim": 32, "rope_parameters": {"rope_theta": 5e5}},
        version_4(rope_theta=500_000, rope_scaling=None),
    ),
    "ernie4_5-biases": Variant(  # heads of 24: rotated by a node of their own
        "ernie4_5",
        {"head_dim": 24, "use_bias": True, "tie_word_embeddings": False, "rope_parameters": LINEAR},
    ),
}
METHODS = ("ernie4_5",)
