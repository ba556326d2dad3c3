"""Qwen3 (Yang et al. 2025): Qwen2 with an RMS norm over each head of q and k, and biases only if asked for."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    pre_norm_layer,
    query_and_key_norm,
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
    """Defaults are transformers' Qwen3Config's; ``head_dim`` is 128 whatever the hidden size."""
    sizes = read_sizes(
        config,
        vocab=151936,
        hidden=4096,
        intermediate=22016,
        layers=32,
        heads=32,
        kv_heads=32,
        head_dim=128,
        context=32768,
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    windows = upper_layer_windows(config, sizes)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    bias = config.flag("attention_bias", False)

    def layer(index: int) -> Layer:
        attention = separate_attention(
            index,
            sizes,
            qkv_bias=bias,
            output_bias=bias,
            window=windows[index],
            norms=query_and_key_norm(index, sizes, epsilon),
        )
        return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, activation))

    return rms_decoder(config, "qwen3", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Windows in the layers from ``max_window_layers`` on."""
    return {"layer_types": upper_layer_types(config, layers)}


ARCHITECTURE = Architecture(model_type="qwen3", read=read, ignored_tensors=IGNORED_TENSORS, by_layer=by_layer)
