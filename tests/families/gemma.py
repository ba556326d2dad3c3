"""Tiny checkpoints of Gemma 1."""

from variants import Variant, version_4

VARIANTS = {
    "gemma": Variant(
        "gemma",
        {"head_dim": 32, "num_key_value_heads": 1},
        version_4(hidden_act="gelu", hidden_activation="gelu_pytorch_tanh", rope_theta=10_000.0, rope_scaling=None),
    ),
    "gemma-biases": Variant("gemma", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": False}),
}
METHODS = ()
