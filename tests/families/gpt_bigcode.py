"""Tiny checkpoints of GPT-BigCode: with one key and value for all heads, and with one for each."""

from families.gpt2 import SIZES
from variants import Variant

VARIANTS = {
    "gpt_bigcode": Variant("gpt_bigcode", sizes=SIZES),
    "gpt_bigcode-heads-no-prefix": Variant(
        "gpt_bigcode",
        {"multi_query": False, "n_inner": 96, "tie_word_embeddings": False, "activation_function": "relu"},
        lambda config: {key: value for key, value in config.items() if key != "n_head"} | {"num_attention_heads": 4},
        sizes=SIZES,
        drop_prefix="transformer.",
    ),
    "gpt_bigcode-unscaled": Variant("gpt_bigcode", {"scale_attn_weights": False}, sizes=SIZES),
}
REFUSES = ("heads", "hidden")
