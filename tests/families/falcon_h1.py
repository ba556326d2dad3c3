"""Tiny checkpoints of Falcon-H1: the multipliers of the 0.5B model, and the norm of the largest."""

from variants import SMALL, Variant

SIZES = SMALL | {"mamba_d_ssm": 96, "mamba_n_heads": 6, "mamba_d_head": 16, "mamba_d_state": 24, "head_dim": 32}

VARIANTS = {
    "falcon_h1": Variant(
        "falcon_h1",
        {
            "attention_out_multiplier": 0.9375,
            "embedding_multiplier": 5.656854249492381,
            "key_multiplier": 0.39,
            "lm_head_multiplier": 0.0390625,
            "mamba_norm_before_gate": False,
            "ssm_multipliers": [0.35, 0.25, 0.17, 0.5, 0.35],
            "ssm_in_multiplier": 1.25,
            "ssm_out_multiplier": 0.23,
            "mlp_multipliers": [0.88, 0.58],
            "rope_parameters": {"rope_theta": 1e11},
        },
        sizes=SIZES,
    ),
    "falcon_h1-norm": Variant(
        "falcon_h1",
        {
            "attention_in_multiplier": 0.7,
            "mamba_rms_norm": True,
            "mamba_n_groups": 2,
            "mamba_norm_before_gate": False,
            "projectors_bias": True,
            "mlp_bias": True,
        },
        sizes=SIZES,
    ),
    "falcon_h1-norm-first": Variant(
        "falcon_h1",
        {
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": True,
            "mamba_proj_bias": True,
            "attention_bias": True,
            "mamba_d_ssm": None,
            "mamba_n_heads": 8,
            "mamba_conv_bias": False,
            "tie_word_embeddings": True,
        },
        sizes=SIZES,
    ),
}
REFUSES = ("hidden",)  # state spaces as wide as the stream
