"""Tiny checkpoints of Bamba."""

from variants import SMALL, Variant

SIZES = SMALL | {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 24}

VARIANTS = {
    "bamba": Variant("bamba", sizes=SIZES),
    "bamba-biases": Variant(
        "bamba",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "mamba_proj_bias": True,
            "mamba_n_groups": 4,
            "time_step_limit": [0.5, 1.0],
            "tie_word_embeddings": True,
        },
        sizes=SIZES,
    ),
}
