"""Gemma 1."""

from edgepress.exporter.source.formats.gguf.families import Family

FAMILY = Family("gemma", "GemmaForCausalLM", minus_one=True, head_dim=True)
