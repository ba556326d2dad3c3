"""Tiny checkpoints of LFM3."""

from variants import YARN, Variant

VARIANTS = {
    "lfm3": Variant(  # as the 1.7B, each kind of layer once
        "lfm3",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "sliding_attention", "full_attention", "conv"],
            "head_dim": 32,
            "sliding_window": 16,
            "norm_eps": 1e-5,
        },
    ),
    "lfm3-biases-plain": Variant(
        "lfm3",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "sliding_window": 24,
            "conv_bias": True,
            "conv_L_cache": 3,
            "attention_bias": True,
            "use_sandwich_norm": False,
            "use_attention_gate": False,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            },
        },
        lambda config: {key: value for key, value in config.items() if key != "layer_types"},
    ),
}
METHODS = ("lfm3",)
REFUSES = ("heads", "hidden")  # layers without attention; convolutions as wide as the stream
