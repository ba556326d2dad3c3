"""Tiny checkpoints of BitNet b1.58, in floats: how ternary ones are stored is its format's test."""

from variants import Variant

VARIANTS = {
    "bitnet": Variant("bitnet", {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 5e5}}),
    "bitnet-biases": Variant("bitnet", {"attention_bias": True, "hidden_act": "silu", "num_key_value_heads": 4}),
}
METHODS = ()
REFUSES = ("heads", "hidden", "mlp_width")  # what heads and MLPs give is normed together
