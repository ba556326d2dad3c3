"""Tiny checkpoints of Hunyuan with experts."""

from variants import Variant

VARIANTS = {
    "hunyuan_v1_moe": Variant("hunyuan_v1_moe", {"num_experts": 4, "moe_topk": 2, "head_dim": 16}),
    "hunyuan_v1_moe-by-layer": Variant(
        "hunyuan_v1_moe", {"num_experts": 5, "moe_topk": [1, 2, 3], "head_dim": 32, "attention_bias": True}
    ),
}
METHODS = ()
