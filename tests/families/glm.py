"""Tiny checkpoints of GLM-4 of 2024."""

from variants import Variant, version_4

VARIANTS = {
    "glm": Variant("glm", {"head_dim": 32, "rms_norm_eps": 1.5625e-07}, version_4(partial_rotary_factor=0.5)),
    "glm-no-biases": Variant(
        "glm",
        {
            "head_dim": 16,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 1e5},
        },
    ),
}
METHODS = ()
