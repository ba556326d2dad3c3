"""Tiny checkpoints of EXAONE 3.5, whose tensors transformers saves under their published names."""

from variants import LLAMA3, Variant

VARIANTS = {
    "exaone": Variant("exaone", {"rope_parameters": LLAMA3}),
    "exaone-tied-biases": Variant("exaone", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
}
