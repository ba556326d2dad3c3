"""Tiny checkpoints of Granite with sliding windows and experts."""

from variants import Variant

VARIANTS = {
    "granitemoe_swa": Variant(
        "granitemoe_swa",
        {
            "num_local_experts": 4,
            "shared_intermediate_size": 32,
            "sliding_window": 16,
            "layer_rope_theta": [0, 5e4, 5e4],
            "attention_multiplier": 0.25,
            "residual_multiplier": 0.5,
        },
    ),
    "granitemoe_swa-not-shared": Variant(
        "granitemoe_swa",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 3,
            "attention_bias": True,
            "attention_multiplier": 0.25,
            "tie_word_embeddings": True,
            "embedding_multiplier": 2.0,
            "logits_scaling": 4.0,
        },
    ),
}
METHODS = ()
