"""Granite, dense."""

from edgepress.exporter.source.formats.gguf.families import Family

FAMILY = Family(
    "granite",
    "GraniteForCausalLM",
    interleaved=True,
    keys={
        "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    },
)
