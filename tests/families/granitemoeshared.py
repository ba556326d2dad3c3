"""Tiny checkpoints of Granite with shared experts."""

from variants import Variant

VARIANTS = {
    "granitemoeshared": Variant(
        "granitemoeshared",
        {"num_local_experts": 4, "shared_intermediate_size": 32, "attention_multiplier": 0.25},
    ),
    "granitemoeshared-none": Variant(
        "granitemoeshared",
        {"num_local_experts": 5, "shared_intermediate_size": 0, "attention_multiplier": 0.25},
    ),
}
METHODS = ()
