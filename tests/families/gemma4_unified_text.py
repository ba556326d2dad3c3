"""Tiny checkpoints of the Gemma 4 without inputs by layer."""

from variants import Variant

_SMALL = {
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "sliding_window": 16,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
}
_GAINS = {"q_norm": 0.3}  # scores are not divided by sqrt(head_dim): what is learned does that

VARIANTS = {
    "gemma4_unified_text": Variant(
        "gemma4_unified_text",
        {**_SMALL, "attention_k_eq_v": True, "final_logit_softcapping": 3.0},
        gains=_GAINS,
    ),
    "gemma4_unified_text-shared-wide": Variant(
        "gemma4_unified_text",
        {
            **_SMALL,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
        },
        gains=_GAINS,
    ),
}
METHODS = ()
