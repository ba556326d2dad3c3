"""Tiny checkpoints of Phi-3.5-MoE: near experts that share, and longrope with a factor of its own."""

from variants import Variant, longrope

EXPERTS = {"num_local_experts": 5, "attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 0.3}
MSCALES = {"short_mscale": 1.25, "long_mscale": 1.5}
VARIANTS = {
    "phimoe": Variant("phimoe", EXPERTS),
    "phimoe-longrope": Variant(
        "phimoe",
        {
            "num_local_experts": 4,
            "rope_parameters": longrope(8) | MSCALES | {"original_max_position_embeddings": 128},
            "sliding_window": 16,
        },
    ),
}
METHODS = ()
