"""Tiny checkpoints of Nemotron-H without experts, as Nemotron Nano 2 is, and with them, as Nemotron 3 Nano is."""

from variants import SMALL, Variant

SIZES = {key: value for key, value in SMALL.items() if key not in {"num_hidden_layers", "rms_norm_eps"}} | {
    "head_dim": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 24,
    "n_groups": 2,
    "layers_block_type": ["mamba", "mlp", "attention", "mlp", "mamba"],
}


def as_shipped(config: dict[str, object]) -> dict[str, object]:
    """The config as the models have it: a letter for each layer, and transformers 4's names."""
    kept = {key: value for key, value in config.items() if key not in {"layers_block_type", "n_groups", "conv_kernel"}}
    old = {"hybrid_override_pattern": "M-*-M", "num_hidden_layers": 5, "mamba_n_groups": 2, "mamba_d_conv": 4}
    return kept | old | {"time_step_limit": [0.0, float("inf")]}


EXPERTS = {
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 48,
    "routed_scaling_factor": 2.5,
}
VARIANTS = {
    "nemotron_h": Variant("nemotron_h", {}, as_shipped, sizes=SIZES),
    "nemotron_h-biases": Variant(
        "nemotron_h",
        {
            "use_bias": True,
            "mlp_bias": True,
            "use_conv_bias": False,
            "time_step_min": 0.5,
            "mlp_hidden_act": "silu",
            "layers_block_type": ["attention", "mamba", "mamba", "mlp"],
        },
        sizes=SIZES,
    ),
    "nemotron_h-experts": Variant(
        "nemotron_h", EXPERTS | {"layers_block_type": ["mamba", "moe", "attention", "moe"]}, sizes=SIZES
    ),
    "nemotron_h-groups": Variant(
        "nemotron_h",
        EXPERTS
        | {"n_group": 2, "topk_group": 1, "norm_topk_prob": False, "mlp_bias": True, "n_routed_experts": 8}
        | {"layers_block_type": ["moe", "attention", "mlp"]},
        sizes=SIZES,
    ),
}
