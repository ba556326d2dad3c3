"""Tiny checkpoints of Qwen2 and Qwen2.5."""

from variants import YARN, Variant, version_4

VARIANTS = {
    "qwen2": Variant("qwen2", {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}}),
    "qwen2-windows-yarn": Variant(
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1, "rope_parameters": YARN},
    ),
    "qwen2-version4": Variant(
        "qwen2", {"rope_parameters": {"rope_theta": 1e6}}, version_4(rope_theta=1e6, use_mrope=False)
    ),
}
METHODS = tuple(VARIANTS)
