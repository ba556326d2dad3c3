"""Tiny checkpoints of GLM-4-0414."""

from variants import Variant, version_4

VARIANTS = {
    "glm4": Variant("glm4", {"head_dim": 32}, version_4(partial_rotary_factor=0.5)),
    "glm4-no-biases": Variant("glm4", {"head_dim": 16, "attention_bias": False, "tie_word_embeddings": True}),
}
METHODS = ()
