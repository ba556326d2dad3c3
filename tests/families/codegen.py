"""Tiny checkpoints of CodeGen."""

from families.gpt2 import SIZES
from variants import Variant

VARIANTS = {
    "codegen": Variant("codegen", {"rotary_dim": 8}, sizes=SIZES),
    "codegen-inner-no-prefix": Variant(
        "codegen", {"rotary_dim": 16, "n_inner": 96, "n_head": 2}, sizes=SIZES, drop_prefix="transformer."
    ),
}
REFUSES = ("heads", "hidden")
