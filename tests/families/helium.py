"""Tiny checkpoints of Helium."""

from variants import Variant

VARIANTS = {
    "helium": Variant("helium", {"head_dim": 16, "num_key_value_heads": 4, "rms_norm_eps": 1e-8}),
    "helium-biases-tied": Variant(
        "helium", {"head_dim": 16, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    ),
}
METHODS = ()
REFUSES = ("heads", "hidden")  # heads are as wide as the stream
