"""Tiny checkpoints of OLMo 2."""

from variants import YARN, Variant

VARIANTS = {
    "olmo2": Variant("olmo2"),
    "olmo2-biases": Variant("olmo2", {"attention_bias": True, "num_key_value_heads": 4, "rope_parameters": YARN}),
}
METHODS = tuple(VARIANTS)
