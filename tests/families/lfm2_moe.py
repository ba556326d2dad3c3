"""Tiny checkpoints of LFM2 with experts."""

from variants import Variant

EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_dense_layers": 1}
VARIANTS = {
    "lfm2_moe": Variant("lfm2_moe", {**EXPERTS, "layer_types": ["conv", "full_attention", "conv"]}),
    "lfm2_moe-no-correction": Variant(
        "lfm2_moe",
        {
            **EXPERTS,
            "layer_types": ["conv", "conv", "full_attention"],
            "use_expert_bias": False,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.5,
            "conv_bias": True,
            "tie_word_embeddings": False,
        },
    ),
}
METHODS = ()
