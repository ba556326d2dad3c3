"""Tiny checkpoints of Nemotron."""

from variants import Variant, version_4

VARIANTS = {
    "nemotron": Variant(
        "nemotron",
        {"head_dim": 32, "rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 10_000.0}},
        version_4(partial_rotary_factor=0.5, rope_theta=10_000.0),
    ),
    "nemotron-biases": Variant(
        "nemotron", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 16}
    ),
}
METHODS = ()
