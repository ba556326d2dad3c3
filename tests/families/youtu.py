"""Tiny checkpoints of Youtu-LLM."""

from families.minicpm3 import SIZES as MINICPM3
from variants import YARN, Variant

SIZES = MINICPM3 | {"pad_token_id": None}  # transformers' class forgets the row of such a token in a tied head

VARIANTS = {
    "youtu": Variant("youtu", sizes=SIZES),
    "youtu-yarn-half-split": Variant(
        "youtu",
        {
            "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.8},
            "rope_interleave": False,
            "tie_word_embeddings": False,
            "q_lora_rank": None,
        },
        sizes=SIZES,
    ),
}
