"""Tiny checkpoints of Solar Open."""

from variants import Variant

EXPERTS = {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
VARIANTS = {
    "solar_open": Variant("solar_open", {**EXPERTS, "routed_scaling_factor": 2.5}),
    "solar_open-groups-biases": Variant(
        "solar_open",
        {
            **EXPERTS,
            "n_group": 3,
            "topk_group": 2,
            "attention_bias": True,
            "norm_topk_prob": False,
            "n_shared_experts": 2,
        },
    ),
}
