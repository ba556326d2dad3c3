"""Tiny checkpoints of StableLM: as StableLM 2 1.6B is, and as 12B with norms of heads and one norm a layer."""

from variants import Variant, version_4

VARIANTS = {
    "stablelm": Variant(
        "stablelm",
        {"num_key_value_heads": 4, "use_qkv_bias": True, "rope_parameters": {"partial_rotary_factor": 0.25}},
        version_4(rope_theta=10_000, partial_rotary_factor=0.25),
    ),
    "stablelm-parallel-norms": Variant(
        "stablelm",
        {
            "qk_layernorm": True,
            "use_parallel_residual": True,
            "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
    ),
    "stablelm-tied-whole": Variant(
        "stablelm", {"tie_word_embeddings": True, "rope_parameters": {"partial_rotary_factor": 1.0}}
    ),
}
METHODS = ("stablelm-parallel-norms",)
REFUSES = ("heads", "hidden")
