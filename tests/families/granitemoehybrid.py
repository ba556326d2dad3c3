"""Tiny checkpoints of Granite 4: the hybrid form, the dense one, and what else its config can say."""

from variants import SMALL, Variant

MULTIPLIERS = {
    "embedding_multiplier": 12,
    "attention_multiplier": 0.125,
    "residual_multiplier": 0.263,
    "logits_scaling": 4,
}
SIZES = SMALL | {
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "shared_intermediate_size": 96,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 24,
}


def as_shipped(config: dict[str, object]) -> dict[str, object]:
    """The config as the models have it: transformers 4's names of layers, and no limits of the step."""
    kept = {key: value for key, value in config.items() if key not in ("time_step_limit", "rope_parameters")}
    old = ["mamba", "attention", "mamba"]
    return kept | {"layer_types": old, "rope_theta": 1e7, "rope_scaling": None, "init_method": "mup"}


VARIANTS = {
    "granitemoehybrid": Variant(
        "granitemoehybrid",
        MULTIPLIERS
        | {
            "layer_types": ["mamba", "attention", "mamba"],
            "position_embedding_type": "nope",
            "tie_word_embeddings": True,
        },
        as_shipped,
        sizes=SIZES,
    ),
    "granitemoehybrid-dense": Variant(
        "granitemoehybrid",
        MULTIPLIERS
        | {
            "layer_types": ["attention"] * 3,
            "position_embedding_type": "rope",
            "rope_parameters": {"rope_theta": 1e7},
            "tie_word_embeddings": True,
        },
        sizes=SIZES,
    ),
    "granitemoehybrid-groups-biases": Variant(
        "granitemoehybrid",
        {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "position_embedding_type": None,
            "attention_bias": True,
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
            "mamba_n_groups": 2,
            "mamba_d_head": "auto",
            "mamba_d_conv": 3,
            "time_step_limit": [0.4, 1.5],
        },
        sizes=SIZES,
    ),
    "granitemoehybrid-experts": Variant(
        "granitemoehybrid",
        MULTIPLIERS
        | {
            "layer_types": ["mamba", "attention", "mamba"],
            "position_embedding_type": "nope",
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 64,
        },
        sizes=SIZES,
    ),
}
REFUSES = ("heads", "hidden")  # layers without attention; state spaces as wide as the stream
