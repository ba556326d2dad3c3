"""ERNIE 4.5, dense: pairs of neighbours, as the original has them."""

from edgepress.exporter.source.formats.gguf.families import Family

FAMILY = Family("ernie4_5", "Ernie4_5ForCausalLM", head_dim=True, bias_key="use_bias")
