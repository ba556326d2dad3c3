"""Tiny checkpoints of GPT-NeoX-Japanese."""

from variants import SMALL, Variant, version_4

_SIZES = {key: value for key, value in SMALL.items() if key not in ("intermediate_size", "num_key_value_heads")}
VARIANTS = {
    "gpt_neox_japanese": Variant("gpt_neox_japanese", {"intermediate_multiple_size": 3}, sizes=_SIZES),
    "gpt_neox_japanese-version4-partial": Variant(
        "gpt_neox_japanese",
        {
            "hidden_act": "relu",
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_theta": 20_000.0, "partial_rotary_factor": 0.5},
        },
        version_4(rotary_emb_base=20_000, rotary_pct=0.5),
        drop_prefix="gpt_neox_japanese.",
        sizes=_SIZES,
    ),
}
METHODS = ()
REFUSES = ("heads", "hidden")
