"""Tiny checkpoints of GLM-4.7-Flash."""

from families.deepseek_v3 import SIZES as V3
from variants import Variant

SIZES = {key: value for key, value in V3.items() if key != "first_k_dense_replace"}
VARIANTS = {
    "glm4_moe_lite": Variant("glm4_moe_lite", {"n_group": 1, "topk_group": 1}, sizes=SIZES),
    "glm4_moe_lite-pattern": Variant(
        "glm4_moe_lite",
        {"mlp_layer_types": ["sparse", "dense", "sparse"], "routed_scaling_factor": 1.0, "v_head_dim": 8},
        sizes=SIZES,
    ),
}
