"""Tiny checkpoints of Persimmon."""

from variants import Variant, version_4

VARIANTS = {
    "persimmon": Variant("persimmon", {"rope_parameters": {"rope_theta": 25_000.0, "partial_rotary_factor": 0.5}}),
    "persimmon-no-norms-version4": Variant(
        "persimmon",
        {
            "qk_layernorm": False,
            "hidden_act": "gelu",
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_theta": 25_000.0, "partial_rotary_factor": 0.25},
        },
        version_4(rope_theta=25_000.0, partial_rotary_factor=0.25),
    ),
}
REFUSES = ("heads", "hidden")
