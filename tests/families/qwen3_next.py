"""Tiny checkpoints of Qwen3-Next."""

from variants import SMALL, Variant

SIZES = SMALL | {
    "num_hidden_layers": 4,
    "head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 64,
}

VARIANTS = {
    "qwen3_next": Variant(
        "qwen3_next",
        {"num_hidden_layers": 3, "full_attention_interval": 2, "linear_key_head_dim": 32},
        sizes=SIZES,
    ),
    "qwen3_next-dense-layer": Variant(
        "qwen3_next",
        {
            "norm_topk_prob": False,
            "mlp_only_layers": [1],
            "num_hidden_layers": 2,
            "layer_types": ["full_attention", "linear_attention"],
            "tie_word_embeddings": True,
            "attention_bias": True,
            "linear_num_value_heads": 2,
        },
        lambda config: {
            **{key: value for key, value in config.items() if key != "rope_parameters"},
            "rope_theta": 100_000.0,
            "partial_rotary_factor": 0.5,
        },
        sizes=SIZES,
    ),
}
