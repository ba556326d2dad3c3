"""Tiny checkpoints of FlexOlmo."""

from variants import Variant

VARIANTS = {
    "flex_olmo": Variant("flex_olmo", {"num_experts": 5, "num_experts_per_tok": 2, "num_key_value_heads": 4}),
    "flex_olmo-normalized": Variant(
        "flex_olmo", {"num_experts": 4, "num_experts_per_tok": 3, "norm_topk_prob": True, "attention_bias": True}
    ),
}
METHODS = ()
