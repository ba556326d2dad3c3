"""Tiny checkpoints of dots.llm1."""

from variants import Variant

EXPERTS = {
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
}
VARIANTS = {
    "dots1": Variant(
        "dots1", {**EXPERTS, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "first_k_dense_replace": 1}
    ),
    "dots1-windows-biases": Variant(
        "dots1", {**EXPERTS, "sliding_window": 16, "max_window_layers": 2, "attention_bias": True}
    ),
}
METHODS = ()
