"""Tiny checkpoints of Mistral."""

from variants import Variant

VARIANTS = {
    "mistral-window": Variant("mistral", {"sliding_window": 16}),
    "mistral-full": Variant("mistral", {"sliding_window": None, "head_dim": 32}),
}
METHODS = ("mistral-window",)
