"""Tiny checkpoints of InternLM3."""

from variants import CONTEXT, Variant, version_4

VARIANTS = {
    "internlm3": Variant(  # dynamic, as released: the context is what it does not change
        "internlm3",
        {"head_dim": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 6.0, "rope_theta": 5e7}},
        version_4(
            rope_theta=50_000_000,
            rope_scaling={"rope_type": "dynamic", "factor": 6.0},
            bias=False,
            qkv_bias=False,
            max_position_embeddings=CONTEXT,
        ),
    ),
    "internlm3-biases": Variant("internlm3", {"head_dim": 32, "attention_bias": True, "mlp_bias": True}),
}
METHODS = ()
