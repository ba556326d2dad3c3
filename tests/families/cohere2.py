"""Tiny checkpoints of Command R7B."""

from families.cohere import SIZES
from variants import Variant

VARIANTS = {
    "cohere2": Variant(
        "cohere2",
        {"num_hidden_layers": 4, "sliding_window": 16, "logit_scale": 0.25, "rope_parameters": {"rope_theta": 5e4}},
        lambda config: (
            {key: value for key, value in config.items() if key != "layer_types"} | {"sliding_window_pattern": 4}
        ),
        sizes=SIZES,
    ),
    "cohere2-biases": Variant(
        "cohere2",
        {
            "attention_bias": True,
            "tie_word_embeddings": False,
            "sliding_window": 16,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
        sizes=SIZES,
    ),
}
METHODS = ()
