"""Tiny checkpoints of DeepSeek-V3: groups of experts, YaRN as published, and a form without groups."""

from families.minicpm3 import SIZES as LATENT
from variants import YARN, Variant

SIZES = LATENT | {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
}
VARIANTS = {
    "deepseek_v3": Variant(
        "deepseek_v3", {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}, sizes=SIZES
    ),
    "deepseek_v3-half-split": Variant(
        "deepseek_v3",
        {"n_group": 1, "topk_group": 1, "rope_interleave": False, "q_lora_rank": None, "norm_topk_prob": False},
        sizes=SIZES,
    ),
}
REFUSES = ("heads", "hidden", "mlp_width")  # latent attention; experts
