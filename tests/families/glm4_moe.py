"""Tiny checkpoints of GLM-4.5."""

from variants import Variant

EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "head_dim": 32}
VARIANTS = {
    "glm4_moe": Variant("glm4_moe", {**EXPERTS, "use_qk_norm": True, "routed_scaling_factor": 2.5}),
    "glm4_moe-groups": Variant(
        "glm4_moe",
        {
            **EXPERTS,
            "n_group": 4,
            "topk_group": 2,
            "norm_topk_prob": False,
            "n_shared_experts": 2,
            "attention_bias": True,
            "first_k_dense_replace": 0,
        },
    ),
}
METHODS = ()
