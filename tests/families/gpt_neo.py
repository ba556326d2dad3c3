"""Tiny checkpoints of GPT-Neo: layers that see a window of 16 and such as see all of the past."""

from variants import CONTEXT, VOCABULARY, Variant

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_layers": 3,
    "num_heads": 4,
    "max_position_embeddings": CONTEXT,
    "window_size": 16,
    "attention_types": [[["global", "local"], 1], [["global"], 1]],
    "bos_token_id": 1,
    "eos_token_id": 2,
}

VARIANTS = {
    "gpt_neo": Variant("gpt_neo", sizes=SIZES),
    "gpt_neo-local-no-prefix": Variant(
        "gpt_neo",
        {"attention_types": [[["local"], 3]], "intermediate_size": 96, "tie_word_embeddings": False},
        sizes=SIZES,
        drop_prefix="transformer.",
    ),
}
REFUSES = ("heads", "hidden")
