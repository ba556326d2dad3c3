"""SmolLM3 (Bakouch et al. 2025): Llama in which every fourth layer has no rotary embedding (NoPE)."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    Sizes,
    gated_mlp,
    pre_norm_layer,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
    windows_of,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' SmolLM3Config's; in ``no_rope_layers`` 1 means rotary and 0 means none."""
    sizes = read_sizes(
        config, vocab=128256, hidden=2048, intermediate=11008, layers=36, heads=16, kv_heads=4, context=32768
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=2_000_000.0)
    rotary = _rotary(config, sizes.layers)
    config.without_effect("max_window_layers")  # left in SmolLM3's config by Qwen2's; the model does not read it
    windows = _windows(config, sizes, rotary)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    attention_bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)

    def layer(index: int) -> Layer:
        attention = separate_attention(
            index,
            sizes,
            qkv_bias=attention_bias,
            output_bias=attention_bias,
            rope="default" if rotary[index] else None,
            window=windows[index],
        )
        return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, activation, bias=mlp_bias))

    return rms_decoder(config, "smollm3", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=True)


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """No rotary embedding in every ``no_rope_layer_interval``-th layer."""
    return {"no_rope_layers": _rotary(config, layers)}


def _rotary(config: Config, layers: int) -> list[int]:
    interval = config.integer("no_rope_layer_interval", 4)
    return config.optional_integers("no_rope_layers", layers) or [
        int((index + 1) % interval != 0) for index in range(layers)
    ]


def _windows(config: Config, sizes: Sizes, rotary: list[int]) -> list[int | None]:
    """Windows only with ``use_sliding_window``: in ``layer_types``' layers, by default those without rotary."""
    window = config.optional_integer("sliding_window")
    if not config.flag("use_sliding_window", False):
        window = None
    types = config.optional_texts("layer_types", sizes.layers, LAYER_TYPES)
    if types is None:
        types = [LAYER_TYPES[window is not None and not rotary[index]] for index in range(sizes.layers)]
    return windows_of(config, types, window, sizes)


ARCHITECTURE = Architecture(model_type="smollm3", read=read, ignored_tensors=IGNORED_TENSORS, by_layer=by_layer)
