"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on q, k and v, and windows in the upper layers."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    pre_norm_layer,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
    upper_layer_types,
    upper_layer_windows,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Qwen2Config's."""
    sizes = read_sizes(
        config, vocab=151936, hidden=4096, intermediate=22016, layers=32, heads=32, kv_heads=32, context=32768
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    windows = upper_layer_windows(config, sizes)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")

    def layer(index: int) -> Layer:
        attention = separate_attention(index, sizes, qkv_bias=True, window=windows[index])
        return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, activation))

    return rms_decoder(config, "qwen2", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Windows in the layers from ``max_window_layers`` on."""
    return {"layer_types": upper_layer_types(config, layers)}


ARCHITECTURE = Architecture(model_type="qwen2", read=read, ignored_tensors=IGNORED_TENSORS, by_layer=by_layer)
