"""Tiny checkpoints of GPT-J."""

from families.gpt2 import SIZES
from variants import Variant

VARIANTS = {
    "gptj": Variant("gptj", {"rotary_dim": 8}, sizes=SIZES),
    "gptj-tied-whole-no-prefix": Variant(
        "gptj",
        {"rotary_dim": 16, "n_inner": 96, "tie_word_embeddings": True, "activation_function": "gelu"},
        sizes=SIZES,
        drop_prefix="transformer.",
    ),
}
REFUSES = ("heads", "hidden")
