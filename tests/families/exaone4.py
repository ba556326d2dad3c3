"""Tiny checkpoints of EXAONE 4."""

from variants import LLAMA3, Variant

VARIANTS = {
    "exaone4": Variant(  # as the 1.2B: no windows, all rotated
        "exaone4",
        {
            "sliding_window": None,
            "layer_types": ["full_attention"] * 3,
            "tie_word_embeddings": True,
            "rope_parameters": LLAMA3,
        },
    ),
    "exaone4-windows": Variant(  # as the 32B
        "exaone4",
        {
            "num_hidden_layers": 4,
            "sliding_window": 16,
            "sliding_window_pattern": "LLLG",
            "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "exaone4-pattern": Variant(
        "exaone4", {"sliding_window": 16, "sliding_window_pattern": 2}, lambda config: config | {"layer_types": None}
    ),
}
METHODS = ()
