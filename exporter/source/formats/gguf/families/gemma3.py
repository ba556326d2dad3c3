"""Gemma 3: the pattern of its windows and their base are in llama.cpp's code."""

from collections.abc import Mapping

from edgepress.exporter.source.formats.gguf.families import Family, Values, whole

_WINDOWS = 6  # every so many layers one sees all
_LOCAL = 10_000.0  # the base of the others
_LARGEST = 62  # layers of the 27B, whose scale of attention is another


def _ropes_and_windows(values: Mapping[str, object], config: Values) -> Values:
    layers, heads = whole(config["num_hidden_layers"]), whole(config["num_attention_heads"])
    kinds = ["sliding_attention" if (index + 1) % _WINDOWS else "full_attention" for index in range(layers)]
    scale = whole(config["hidden_size"]) // heads if layers == _LARGEST else config["head_dim"]
    base = {"rope_type": "default", "rope_theta": values.get("rope.freq_base", 1e6)}
    scaled = config.pop("rope_scaling", None)
    full = {**base, **scaled} if isinstance(scaled, dict) else base
    config.pop("rope_theta", None)
    return {
        "layer_types": kinds,
        "query_pre_attn_scalar": scale,
        "rope_parameters": {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": _LOCAL},
        },
    }


FAMILY = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    minus_one=True,
    head_dim=True,
    names={"ffn_norm": "pre_feedforward_layernorm"},
    keys={"attention.sliding_window": "sliding_window"},
    more=_ropes_and_windows,
)
