"""Tiny checkpoints of SmolLM3."""

from variants import Variant

VARIANTS = {
    "smollm3": Variant("smollm3", {"num_hidden_layers": 4}),
    "smollm3-windows": Variant(
        "smollm3",
        {
            "use_sliding_window": True,
            "sliding_window": 16,
            "no_rope_layers": [0, 1, 0],
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
}
METHODS = ("smollm3",)
