"""Tiny checkpoints of Mixtral."""

from variants import Variant

VARIANTS = {
    "mixtral": Variant("mixtral", {"num_local_experts": 4}),
    "mixtral-window": Variant("mixtral", {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 16}),
}
METHODS = ()
