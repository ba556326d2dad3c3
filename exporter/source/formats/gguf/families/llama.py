"""Llama, and what its converter takes for one: Mistral, SmolLM2 and others."""

from edgepress.exporter.source.formats.gguf.families import Family

FAMILY = Family("llama", "LlamaForCausalLM", interleaved=True)
