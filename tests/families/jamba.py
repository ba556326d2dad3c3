"""Tiny checkpoints of Jamba without experts, as Jamba Reasoning 3B is, and with them."""

from variants import SMALL, Variant

SIZES = SMALL | {
    "num_experts": 1,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "mamba_d_state": 16,
    "mamba_dt_rank": 32,
}

VARIANTS = {
    "jamba": Variant("jamba", sizes=SIZES),
    "jamba-biases": Variant(
        "jamba",
        {
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
            "mamba_dt_rank": "auto",
            "num_experts": 4,
            "expert_layer_period": 8,
            "expert_layer_offset": 5,
            "tie_word_embeddings": True,
        },
        sizes=SIZES,
    ),
    "jamba-experts": Variant("jamba", {"num_experts": 4}, sizes=SIZES),
}
REFUSES = ("depth", "heads", "hidden")  # layers of attention by their numbers; layers without it
