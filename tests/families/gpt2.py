"""Tiny checkpoints of GPT-2."""

from variants import CONTEXT, VOCABULARY, Variant

SIZES = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

VARIANTS = {
    "gpt2": Variant("gpt2", sizes=SIZES),
    "gpt2-no-prefix-inner": Variant("gpt2", {"n_inner": 96}, sizes=SIZES, drop_prefix="transformer."),
    "gpt2-untied-scales": Variant(
        "gpt2",
        {
            "tie_word_embeddings": False,
            "scale_attn_by_inverse_layer_idx": True,
            "scale_attn_weights": False,
            "activation_function": "relu",
        },
        sizes=SIZES,
    ),
}
METHODS = tuple(VARIANTS)
REFUSES = ("hidden",)  # layer norms subtract the mean over all channels
