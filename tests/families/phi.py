"""Tiny checkpoints of Phi-1, Phi-1.5 and Phi-2."""

from variants import Variant, version_4

VARIANTS = {
    "phi": Variant("phi", {"num_key_value_heads": 4, "rope_parameters": {"partial_rotary_factor": 0.5}}),
    "phi-norms-tied-version4": Variant(
        "phi",
        {
            "qk_layernorm": True,
            "tie_word_embeddings": True,
            "hidden_act": "gelu",
            "rope_parameters": {"partial_rotary_factor": 0.25},
        },
        version_4(partial_rotary_factor=0.25, rope_theta=10_000.0, rope_scaling=None),
    ),
}
METHODS = ("phi",)
REFUSES = ("hidden",)
