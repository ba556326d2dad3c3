"""Tiny checkpoints of Gemma 4's text model."""

from variants import Variant

_TYPES = ["sliding_attention", "sliding_attention", "full_attention"]
_SMALL = {
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 16,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": 320,
    "num_hidden_layers": 6,
    "num_key_value_heads": 1,
    "layer_types": _TYPES * 2,
}


def _published(config: dict[str, object]) -> dict[str, object]:
    """As published: global_head_dim, and no sizes by the number of a layer."""
    return {key: value for key, value in config.items() if key != "per_layer_config"} | {"global_head_dim": 32}


_GAINS = {"q_norm": 0.3}  # scores are not divided by sqrt(head_dim): what is learned does that

VARIANTS = {
    "gemma4_text": Variant(
        "gemma4_text",
        {**_SMALL, "num_kv_shared_layers": 2, "use_double_wide_mlp": True, "final_logit_softcapping": 3.0},
        _published,
        gains=_GAINS,
    ),
    "gemma4_text-own-keys": Variant(
        "gemma4_text",
        {**_SMALL, "num_kv_shared_layers": 0, "num_hidden_layers": 3, "layer_types": _TYPES},
        gains=_GAINS,
    ),
    "gemma4_text-experts": Variant(
        "gemma4_text",
        {
            **_SMALL,
            "hidden_size_per_layer_input": 0,
            "num_hidden_layers": 2,
            "layer_types": _TYPES[1:],
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        },
        gains=_GAINS,
    ),
    "gemma4_text-keys-are-values": Variant(
        "gemma4_text",
        {
            **_SMALL,
            "hidden_size_per_layer_input": 0,
            "num_hidden_layers": 3,
            "layer_types": _TYPES,
            "num_key_value_heads": 2,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "rope_parameters": {
                "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 2e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
        },
        gains=_GAINS,
    ),
}
REFUSES = ("depth", "heads", "hidden", "mlp_width", "vocabulary")  # layers share keys; inputs by layer
