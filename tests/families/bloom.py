"""Tiny checkpoints of BLOOM: with as many heads as a power of two, and with others; as the hub has them."""

from variants import VOCABULARY, Variant

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "n_layer": 3,
    "n_head": 4,
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _as_on_the_hub(config: dict[str, object]) -> dict[str, object]:
    """The names that BigScience's configs have."""
    names = {"hidden_size": "n_embed", "n_head": "num_attention_heads"}
    renamed = {names.get(key, key): value for key, value in config.items()}
    return renamed | {"offset_alibi": 100, "n_inner": None, "masked_softmax_fusion": True}


VARIANTS = {
    "bloom": Variant("bloom", {}, _as_on_the_hub, sizes=SIZES, drop_prefix="transformer."),
    "bloom-six-heads-untied": Variant(
        "bloom", {"n_head": 6, "hidden_size": 96, "tie_word_embeddings": False}, sizes=SIZES
    ),
}
REFUSES = ("heads", "hidden", "mlp_width")
