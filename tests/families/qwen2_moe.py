"""Tiny checkpoints of Qwen2 with experts."""

from variants import Variant

EXPERTS = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
}
VARIANTS = {
    "qwen2_moe": Variant("qwen2_moe", EXPERTS),
    "qwen2_moe-normalized-windows": Variant(
        "qwen2_moe",
        {
            **EXPERTS,
            "norm_topk_prob": True,
            "decoder_sparse_step": 2,
            "qkv_bias": False,
            "use_sliding_window": True,
            "sliding_window": 16,
            "max_window_layers": 2,
        },
    ),
}
METHODS = ()
