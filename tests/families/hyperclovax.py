"""Tiny checkpoints of HyperCLOVA X SEED."""

from variants import Variant

VARIANTS = {
    "hyperclovax": Variant(
        "hyperclovax",
        {
            "embedding_multiplier": 10.0,
            "logits_scaling": 0.125,
            "attention_multiplier": 0.0078125,
            "residual_multiplier": 0.5,
            "head_dim": 32,
        },
    ),
    "hyperclovax-biases": Variant(
        "hyperclovax", {"use_post_norm": False, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    ),
}
METHODS = ()
