"""Tiny checkpoints of OPT: as most sizes are, and as OPT-350M with norms of the stream and narrower embeddings."""

from variants import CONTEXT, VOCABULARY, Variant

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "word_embed_proj_dim": 64,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 2,
}

VARIANTS = {
    "opt": Variant("opt", sizes=SIZES),
    "opt-350m": Variant("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}, sizes=SIZES),
    "opt-untied-no-biases": Variant(
        "opt",
        {
            "enable_bias": False,
            "tie_word_embeddings": False,
            "activation_function": "gelu",
            "_remove_final_layer_norm": True,
        },
        sizes=SIZES,
    ),
}
METHODS = ("opt", "opt-350m")
REFUSES = ("heads", "hidden")
