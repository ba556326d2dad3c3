"""Tiny checkpoints of nanochat."""

from variants import Variant

VARIANTS = {
    "nanochat": Variant("nanochat", {"num_key_value_heads": 4, "final_logit_softcapping": 3.0}),
    "nanochat-biases": Variant(
        "nanochat", {"attention_bias": True, "final_logit_softcapping": None, "hidden_act": "gelu"}
    ),
}
METHODS = ("nanochat",)
REFUSES = ("hidden",)
