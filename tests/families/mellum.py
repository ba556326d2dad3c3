"""Tiny checkpoints of Mellum 2."""

from variants import YARN, Variant

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 32}
VARIANTS = {
    "mellum": Variant(
        "mellum",
        {
            **EXPERTS,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            },
        },
    ),
    "mellum-dense-biases": Variant(
        "mellum",
        {
            **EXPERTS,
            "attention_bias": True,
            "norm_topk_prob": False,
            "tie_word_embeddings": True,
            "mlp_layer_types": ["dense", "sparse", "sparse"],
        },
    ),
}
METHODS = ()
