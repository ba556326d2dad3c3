"""Tiny checkpoints of Gemma 3, text only."""

from variants import LINEAR, Variant, version_4

VARIANTS = {
    "gemma3_text": Variant(
        "gemma3_text",
        {
            "head_dim": 32,
            "sliding_window": 16,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": LINEAR | {"rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gemma3_text-version4": Variant(
        "gemma3_text",
        {
            "head_dim": 16,
            "sliding_window": 16,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "final_logit_softcapping": 3.0,
            "attention_bias": True,
            "rope_parameters": {
                "full_attention": LINEAR | {"rope_theta": 2e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
        },
        version_4(
            sliding_window_pattern=2,
            rope_theta=2e6,
            rope_local_base_freq=2e4,
            rope_scaling={"rope_type": "linear", "factor": 4.0},
            cache_implementation="hybrid",
        ),
    ),
}
METHODS = tuple(VARIANTS)
