"""Tiny checkpoints of MiniCPM3: latent attention, longrope as published, heads of values wider than of keys."""

from variants import CONTEXT, LONG_FROM, SMALL, Variant, longrope

SIZES = SMALL | {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "max_position_embeddings": CONTEXT,
}

VARIANTS = {
    "minicpm3": Variant("minicpm3", {"dim_model_base": 32}, sizes=SIZES),
    "minicpm3-longrope-untied": Variant(
        "minicpm3",
        {
            "rope_parameters": longrope(4),
            "original_max_position_embeddings": LONG_FROM,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
            "v_head_dim": None,
            "qk_nope_head_dim": 4,
            "q_lora_rank": None,
        },
        sizes=SIZES,
    ),
}
REFUSES = ("heads",)  # latent attention
