"""Tiny checkpoints of gpt-oss."""

from variants import YARN, Variant

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32}
VARIANTS = {
    "gpt_oss": Variant(
        "gpt_oss", {**EXPERTS, "sliding_window": 16, "swiglu_limit": 1.0, "rope_parameters": YARN | {"truncate": False}}
    ),
    "gpt_oss-all-full": Variant(
        "gpt_oss",
        {
            **EXPERTS,
            "layer_types": ["full_attention"] * 3,
            "attention_bias": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 150_000.0},
        },
    ),
}
METHODS = ()
REFUSES = ("heads", "hidden", "mlp_width")  # sinks; experts
