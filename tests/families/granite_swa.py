"""Tiny checkpoints of Granite with sliding windows."""

from variants import YARN, Variant

VARIANTS = {
    "granite_swa": Variant(  # as published: full attention without a rope, another base where it slides
        "granite_swa",
        {
            "num_hidden_layers": 5,
            "sliding_window": 16,
            "layer_rope_theta": [0, 5e4, 5e4, 5e4, 0],
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.125,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
        },
    ),
    "granite_swa-one-base": Variant(
        "granite_swa",
        {
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
            "attention_multiplier": 0.25,
            "rope_parameters": YARN,
        },
        lambda config: {key: value for key, value in config.items() if key != "layer_rope_theta"},
    ),
}
METHODS = ()
