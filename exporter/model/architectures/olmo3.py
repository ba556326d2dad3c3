"""OLMo 3 (OLMo Team 2025): OLMo 2 with windows in three of four layers, whose rope is not scaled."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    gated_mlp,
    post_norm_layer,
    query_and_key_norm,
    read_activation,
    read_ropes,
    read_sizes,
    rms_decoder,
    separate_attention,
    windows_of,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.source.config import Config

_EVERY = 4  # the last of so many layers sees everything


def read(config: Config) -> Decoder:
    """Defaults are transformers' Olmo3Config's; ``rope_scaling`` is for the layers with full attention."""
    sizes = read_sizes(
        config, vocab=50304, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    types = _layer_types(config, sizes.layers)
    windows = windows_of(config, types, config.optional_integer("sliding_window", 4096), sizes)
    thetas = {  # transformers takes a θ outside of the sections for full attention alone
        "full_attention": config.number("rope_theta", 500_000.0, above=1.0),
        "sliding_attention": 500_000.0,
    }
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    bias = config.flag("attention_bias", False)

    def layer(index: int) -> Layer:
        attention = separate_attention(
            index,
            sizes,
            qkv_bias=bias,
            output_bias=bias,
            rope=types[index],
            window=windows[index],
            norm_per_head=False,
            norms=query_and_key_norm(index, sizes, epsilon, per_head=False),
        )
        return post_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, activation))

    ropes = read_ropes(config, sizes, types, thetas)
    return rms_decoder(config, "olmo3", sizes, layer, ropes=ropes, epsilon=epsilon, tied=False)


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Full attention in the last of every four layers."""
    return {"layer_types": _layer_types(config, layers)}


def _layer_types(config: Config, layers: int) -> list[str]:
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[bool((index + 1) % _EVERY)] for index in range(layers)]


ARCHITECTURE = Architecture(
    model_type="olmo3",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    by_layer=by_layer,
    config_keys=("partial_rotary_factor",),
)
