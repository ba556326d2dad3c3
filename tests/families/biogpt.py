"""Tiny checkpoints of BioGPT."""

from variants import Variant

VARIANTS = {
    "biogpt": Variant("biogpt"),
    "biogpt-untied-unscaled": Variant(
        "biogpt", {"scale_embedding": False, "tie_word_embeddings": False, "hidden_act": "relu"}
    ),
}
REFUSES = ("heads", "hidden")
