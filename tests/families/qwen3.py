"""Tiny checkpoints of Qwen3."""

from variants import Variant

VARIANTS = {
    "qwen3": Variant("qwen3", {"tie_word_embeddings": True, "head_dim": 32}),
    "qwen3-windows-biases": Variant(
        "qwen3",
        {
            "head_dim": 16,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}
METHODS = ("qwen3",)
