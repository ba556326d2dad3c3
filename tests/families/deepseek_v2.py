"""Tiny checkpoints of DeepSeek-V2-Lite, whose queries have no latent vector, and with one."""

from families.deepseek_v3 import SIZES as V3
from variants import YARN, Variant

SIZES = V3 | {"n_group": None, "topk_group": None, "n_shared_experts": 2}
VARIANTS = {
    "deepseek_v2": Variant(
        "deepseek_v2",
        {"q_lora_rank": None, "rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}},
        sizes=SIZES,
    ),
    "deepseek_v2-groups": Variant(
        "deepseek_v2",
        {
            "routed_scaling_factor": 4.0,
            "first_k_dense_replace": 0,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
        },
        sizes=SIZES,
    ),
}
