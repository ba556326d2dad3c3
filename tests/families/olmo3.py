"""Tiny checkpoints of OLMo 3."""

from variants import YARN, Variant, version_4

_SCALING = {key: value for key, value in YARN.items() if key != "rope_theta"} | {"attention_factor": 1.2}

VARIANTS = {
    "olmo3": Variant(
        "olmo3",
        {
            "num_hidden_layers": 4,
            "sliding_window": 16,
            "rope_parameters": {
                "full_attention": _SCALING | {"rope_theta": 500_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500_000.0},
            },
        },
        version_4(rope_theta=500_000, rope_scaling=_SCALING),
    ),
    "olmo3-biases": Variant(
        "olmo3",
        {
            "attention_bias": True,
            "num_key_value_heads": 4,
            "sliding_window": 16,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}
METHODS = ()
