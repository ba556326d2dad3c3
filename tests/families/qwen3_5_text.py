"""Tiny checkpoints of Qwen3.5's text model."""

from variants import SMALL, Variant

SIZES = SMALL | {
    "num_hidden_layers": 4,
    "head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
}

VARIANTS = {
    "qwen3_5_text": Variant("qwen3_5_text", sizes=SIZES),
    "qwen3_5_text-zoo": Variant(  # as Qwen3.5-0.8B is saved
        "qwen3_5_text",
        {
            "tie_word_embeddings": True,
            "attention_bias": True,
            "num_key_value_heads": 1,
            "linear_num_value_heads": 2,
            "linear_conv_kernel_dim": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
            "rope_parameters": {
                "mrope_interleaved": True,
                "mrope_section": [6, 6, 4],
                "partial_rotary_factor": 0.5,
                "rope_theta": 10_000.0,
                "rope_type": "default",
            },
        },
        lambda config: config | {"attn_output_gate": True, "full_attention_interval": 4, "mtp_num_hidden_layers": 1},
        sizes=SIZES,
    ),
}
REFUSES = ("heads",)  # layers without attention
