"""Tiny checkpoints of Apertus."""

from variants import Variant

VARIANTS = {
    "apertus": Variant("apertus"),
    "apertus-biases-relu": Variant(
        "apertus",
        {
            "attention_bias": True,
            "hidden_act": "relu2",
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        },
    ),
}
METHODS = ()
