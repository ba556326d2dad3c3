"""Tiny checkpoints of Granite with experts."""

from variants import Variant

VARIANTS = {
    "granitemoe": Variant(
        "granitemoe",
        {
            "num_local_experts": 4,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.125,
            "residual_multiplier": 0.5,
            "logits_scaling": 4.0,
            "tie_word_embeddings": True,
        },
    ),
    "granitemoe-biases": Variant(
        "granitemoe",
        {"num_local_experts": 5, "num_experts_per_tok": 3, "attention_bias": True, "attention_multiplier": 0.25},
    ),
}
METHODS = ()
