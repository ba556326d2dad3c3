"""Tiny checkpoints of Granite."""

from variants import Variant

VARIANTS = {
    "granite": Variant(
        "granite",
        {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.125,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "tie_word_embeddings": True,
        },
    ),
    "granite-biases": Variant("granite", {"attention_bias": True, "mlp_bias": True, "attention_multiplier": 0.25}),
}
METHODS = ("granite",)
