"""Tiny checkpoints of MPT: with as many heads as a power of two, and with others; with q, k and v cut off."""

from variants import CONTEXT, VOCABULARY, Variant

SIZES = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "n_layers": 3,
    "n_heads": 4,
    "max_seq_len": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

VARIANTS = {
    "mpt": Variant("mpt", sizes=SIZES),
    "mpt-clipped-six-heads": Variant(
        "mpt",
        {"d_model": 96, "n_heads": 6, "attn_config": {"clip_qkv": 0.7, "softmax_scale": 0.3}},
        sizes=SIZES,
        drop_prefix="transformer.",
    ),
}
REFUSES = ("heads", "hidden", "mlp_width")
