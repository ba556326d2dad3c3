"""Tiny checkpoints of OLMoE."""

from variants import Variant

VARIANTS = {
    "olmoe": Variant("olmoe", {"num_experts": 6, "num_experts_per_tok": 2, "num_key_value_heads": 4}),
    "olmoe-normalized-biases": Variant(
        "olmoe",
        {"num_experts": 5, "num_experts_per_tok": 3, "norm_topk_prob": True, "attention_bias": True},
    ),
}
METHODS = ()
REFUSES = ("heads", "hidden", "mlp_width")  # a norm of q as wide as the stream; experts
