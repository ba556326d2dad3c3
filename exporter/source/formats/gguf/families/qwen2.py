"""Qwen2 and Qwen2.5."""

from edgepress.exporter.source.formats.gguf.families import Family

FAMILY = Family("qwen2", "Qwen2ForCausalLM")
