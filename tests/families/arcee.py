"""Tiny checkpoints of AFM."""

from variants import YARN, Variant

VARIANTS = {
    "arcee": Variant("arcee", {"head_dim": 16, "rope_parameters": YARN}),
    "arcee-biases": Variant("arcee", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
}
METHODS = ()
