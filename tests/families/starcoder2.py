"""Tiny checkpoints of StarCoder2."""

from variants import Variant, version_4

VARIANTS = {
    "starcoder2": Variant("starcoder2", {"sliding_window": 16, "rope_parameters": {"rope_theta": 1e5}}),
    "starcoder2-no-biases": Variant(
        "starcoder2", {"use_bias": False, "tie_word_embeddings": False, "hidden_act": "gelu", "num_key_value_heads": 4}
    ),
    "starcoder2-version4": Variant(
        "starcoder2", {"rope_parameters": {"rope_theta": 1e6}}, version_4(rope_theta=1e6, mlp_type="default")
    ),
}
REFUSES = ("hidden",)
