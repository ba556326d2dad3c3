"""Qwen3."""

from edgepress.exporter.source.formats.gguf.families import Family

FAMILY = Family("qwen3", "Qwen3ForCausalLM", head_dim=True)
