"""Gemma 2: the scale of attention is in llama.cpp's code."""

from collections.abc import Mapping

from edgepress.exporter.source.formats.gguf.families import Family, Values, whole

_LARGEST = 46  # layers of the 27B, whose queries are scaled by the hidden size of a head


def _scale(_values: Mapping[str, object], config: Values) -> Values:
    """The scale of attention: the width of a head, but for the largest model."""
    shared = whole(config["hidden_size"]) // whole(config["num_attention_heads"])
    return {"query_pre_attn_scalar": shared if config["num_hidden_layers"] == _LARGEST else config["head_dim"]}


FAMILY = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    minus_one=True,
    head_dim=True,
    names={"ffn_norm": "pre_feedforward_layernorm"},
    keys={
        "attention.sliding_window": "sliding_window",
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
    more=_scale,
)
