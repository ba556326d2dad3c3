"""Tiny checkpoints of OLMo 1."""

from variants import Variant

VARIANTS = {
    "olmo": Variant("olmo", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "olmo-clip": Variant("olmo", {"clip_qkv": 0.8, "attention_bias": True}),
}
METHODS = ("olmo-clip",)
REFUSES = ("hidden",)
