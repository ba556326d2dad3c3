"""Seed-OSS."""

from edgepress.exporter.source.formats.gguf.families import Family

FAMILY = Family(
    "seed_oss",
    "SeedOssForCausalLM",
    head_dim=True,
    more=lambda _, config: {"attention_bias": "attention_bias" in config},
)
