"""Phi-3 and Phi-4-mini: gate and up are one tensor."""

from edgepress.exporter.source.formats.gguf.families import Family

FAMILY = Family(
    "phi3",
    "Phi3ForCausalLM",
    names={"ffn_up": "mlp.gate_up_proj"},
    keys={"attention.sliding_window": "sliding_window"},
)
