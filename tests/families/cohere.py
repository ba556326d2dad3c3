"""Tiny checkpoints of Command R."""

from variants import SMALL, Variant, version_4

SIZES = {key: value for key, value in SMALL.items() if key != "rms_norm_eps"} | {"layer_norm_eps": 1e-5}

VARIANTS = {
    "cohere": Variant("cohere", {"logit_scale": 0.5}, version_4(rope_theta=500_000.0), sizes=SIZES),
    "cohere-norms": Variant(
        "cohere",
        {
            "use_qk_norm": True,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_theta": 1e4},
        },
        sizes=SIZES,
    ),
}
METHODS = ("cohere-norms",)
REFUSES = ("hidden",)
