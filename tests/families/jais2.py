"""Tiny checkpoints of Jais 2."""

from variants import Variant

VARIANTS = {
    "jais2": Variant("jais2", {"num_key_value_heads": 4}),
    "jais2-no-biases": Variant("jais2", {"attention_bias": False, "mlp_bias": False, "head_dim": 24}),
}
METHODS = ()
