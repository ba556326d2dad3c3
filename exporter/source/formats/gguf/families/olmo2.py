"""OLMo 2."""

from edgepress.exporter.source.formats.gguf.families import Family

FAMILY = Family("olmo2", "Olmo2ForCausalLM")
