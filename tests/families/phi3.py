"""Tiny checkpoints of Phi-3 and Phi-4 mini."""

from variants import LONG_FROM, Variant, longrope, version_4

VARIANTS = {
    "phi3": Variant("phi3", {"sliding_window": 16}),
    "phi3-longrope-partial": Variant(
        "phi3",
        {
            "original_max_position_embeddings": LONG_FROM,
            "rope_parameters": longrope(6) | {"partial_rotary_factor": 0.75},
            "tie_word_embeddings": True,
        },
    ),
    "phi3-longrope-version4": Variant(
        "phi3",
        {"original_max_position_embeddings": LONG_FROM, "rope_parameters": longrope(8)},
        version_4(
            rope_theta=10_000.0,
            rope_scaling={
                "type": "longrope",
                "short_factor": longrope(8)["short_factor"],
                "long_factor": longrope(8)["long_factor"],
            },
        ),
    ),
}
METHODS = ("phi3", "phi3-longrope-version4")
