"""Tiny checkpoints of GPT-NeoX, as Pythia is and as its options make it."""

from variants import YARN, Variant, version_4

ROPE = {"rope_theta": 10_000.0, "partial_rotary_factor": 0.25}

VARIANTS = {
    "gpt_neox": Variant("gpt_neox", {"rope_parameters": ROPE}),
    "gpt_neox-sequential-yarn": Variant(
        "gpt_neox",
        {
            "use_parallel_residual": False,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_new",
            "rope_parameters": YARN | {"partial_rotary_factor": 1.0},
        },
    ),
    "gpt_neox-version4-no-prefix": Variant(
        "gpt_neox",
        {"rope_parameters": {"rope_theta": 20_000.0, "partial_rotary_factor": 0.5}},
        version_4(rotary_emb_base=20_000, rotary_pct=0.5),
        drop_prefix="gpt_neox.",
    ),
}
METHODS = ("gpt_neox",)
REFUSES = ("heads", "hidden")
