"""SmolLM3."""

from edgepress.exporter.source.formats.gguf.families import Family

FAMILY = Family("smollm3", "SmolLM3ForCausalLM", interleaved=True)
