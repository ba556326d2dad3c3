"""Tiny checkpoints of Mamba-2, which has no attention."""

from variants import VOCABULARY, Variant

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_heads": 8,
    "head_dim": 16,
    "state_size": 24,
    "n_groups": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

VARIANTS = {
    "mamba2": Variant("mamba2", sizes=SIZES),
    "mamba2-tied-biases": Variant(
        "mamba2",
        {
            "n_groups": 1,
            "use_bias": True,
            "use_conv_bias": False,
            "tie_word_embeddings": True,
            "time_step_limit": [0.5, 1.5],
            "layer_norm_epsilon": 1e-3,
        },
        sizes=SIZES,
    ),
}
REFUSES = ("heads", "hidden", "mlp_width")  # no attention, no MLP
