"""Tiny checkpoints of Qwen3 with experts."""

from variants import Variant

EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
VARIANTS = {
    "qwen3_moe": Variant("qwen3_moe", {**EXPERTS, "norm_topk_prob": True, "head_dim": 32}),
    "qwen3_moe-some-dense-window": Variant(
        "qwen3_moe",
        {
            **EXPERTS,
            "mlp_only_layers": [1],
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 16,
        },
    ),
}
METHODS = ()
