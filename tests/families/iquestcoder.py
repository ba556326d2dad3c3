"""Tiny checkpoints of IQuest-Coder."""

from variants import Variant

VARIANTS = {
    "iquestcoder": Variant("iquestcoder", {"head_dim": 16, "rope_parameters": {"rope_theta": 5e5}}),
    "iquestcoder-biases": Variant(
        "iquestcoder", {"head_dim": 24, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    ),
}
METHODS = ()
