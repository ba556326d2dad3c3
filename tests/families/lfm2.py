"""Tiny checkpoints of LFM2."""

from variants import LINEAR, Variant

VARIANTS = {
    "lfm2": Variant(
        "lfm2",
        {
            "block_auto_adjust_ff_dim": False,
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "conv"],
            "conv_L_cache": 4,
            "conv_bias": True,
            "norm_eps": 1e-5,
        },
    ),
    # As LFM2-1.2B is saved: widths adjusted, numbers of the layers that attend, other names of two keys
    "lfm2-adjusted": Variant(
        "lfm2",
        {
            "full_attn_idxs": [2],
            "block_ff_dim": 144,
            "block_multiple_of": 32,
            "tie_embedding": False,
            "head_dim": 24,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        lambda config: {
            **{key: value for key, value in config.items() if key not in {"layer_types", "intermediate_size"}},
            "block_ff_dim": config["intermediate_size"],
            "full_attn_idxs": [2],
        },
    ),
    "lfm2-attention": Variant(  # attention last, so that no convolution is behind it; multiplied
        "lfm2",
        {
            "layer_types": ["conv", "conv", "full_attention"],
            "block_ffn_dim_multiplier": 1.5,
            "num_key_value_heads": 4,
            "rope_parameters": LINEAR,
        },
    ),
}
REFUSES = ("heads", "hidden")  # layers without attention; convolutions as wide as the stream
