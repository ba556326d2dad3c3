"""Tiny checkpoints of Gemma 2."""

from variants import Variant, version_4

VARIANTS = {
    "gemma2": Variant(
        "gemma2",
        {
            "head_dim": 32,
            "sliding_window": 16,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        version_4(rope_theta=10_000.0, cache_implementation="hybrid", hidden_act="gelu_pytorch_tanh"),
    ),
    "gemma2-no-caps": Variant(
        "gemma2",
        {
            "head_dim": 16,
            "sliding_window": 16,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "attention_bias": True,
        },
    ),
}
METHODS = ()
