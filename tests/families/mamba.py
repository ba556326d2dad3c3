"""Tiny checkpoints of Mamba, which has no attention."""

from variants import VOCABULARY, Variant

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,  # a third makes rounding errors too large to tell them from others
    "state_size": 16,
    "time_step_rank": 32,  # as wide as a block of weights
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

VARIANTS = {
    "mamba": Variant("mamba", sizes=SIZES),
    "mamba-untied-biases": Variant(
        "mamba",
        {
            "use_bias": True,
            "use_conv_bias": False,
            "tie_word_embeddings": False,
            "time_step_rank": 10,
            "conv_kernel": 3,
            "expand": 3,
        },
        sizes=SIZES,
    ),
}
REFUSES = ("heads", "hidden", "mlp_width")  # no attention, no MLP
