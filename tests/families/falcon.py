"""Tiny checkpoints of Falcon: as 7B, as 40B and 11B, and as Falcon-RW with ALiBi and layers in sequence."""

from variants import CONTEXT, VOCABULARY, Variant

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

VARIANTS = {
    "falcon": Variant("falcon", sizes=SIZES),
    "falcon-new": Variant("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, sizes=SIZES),
    "falcon-new-one-norm": Variant(
        "falcon",
        {
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "bias": True,
            "ffn_hidden_size": 96,
            "tie_word_embeddings": False,
        },
        sizes=SIZES,
    ),
    # transformers' own attention adds ALiBi twice in its eager form, and once in the other, as the model was trained
    "falcon-rw": Variant(
        "falcon",
        {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
        sizes=SIZES,
        attention="sdpa",
        drop_prefix="transformer.",
    ),
}
METHODS = ("falcon-new",)
REFUSES = ("heads", "hidden")
