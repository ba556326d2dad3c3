"""EXAONE 4 (LG AI Research 2025): OLMo 2's norms, those of q and k head by head; full attention is not rotated."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    gated_mlp,
    post_norm_layer,
    query_and_key_norm,
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
    """Defaults are transformers' Exaone4Config's.

    Where ``sliding_window`` is null no layer has a window, and all are rotated (1.2B); else those that slide (32B).
    """
    sizes = read_sizes(
        config, vocab=102400, hidden=4096, intermediate=16384, layers=32, heads=32, kv_heads=32, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    sliding = config.optional_integer("sliding_window", 4096)
    types = _layer_types(config, sizes.layers)
    windows = windows_of(config, types, sliding, sizes)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")

    def layer(index: int) -> Layer:
        attention = separate_attention(
            index,
            sizes,
            rope="default" if sliding is None or types[index] == "sliding_attention" else None,
            window=windows[index],
            norms=query_and_key_norm(index, sizes, epsilon),
        )
        return post_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, activation))

    return rms_decoder(config, "exaone4", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Full attention in every ``sliding_window_pattern``-th layer."""
    return {"layer_types": _layer_types(config, layers)}


def _layer_types(config: Config, layers: int) -> list[str]:
    """Read ``layer_types``, or every n-th layer full, n under ``sliding_window_pattern``.

    Released configs have letters there, and list ``layer_types`` too: without it transformers takes numbers alone.
    """
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    sliding = config.optional_integer("sliding_window", 4096)
    if types is not None:
        config.without_effect("sliding_window_pattern")
        return types
    if sliding is None:
        config.without_effect("sliding_window_pattern")
        return [LAYER_TYPES[0]] * layers
    pattern = config.integer("sliding_window_pattern", 4)
    return [LAYER_TYPES[bool((index + 1) % pattern)] for index in range(layers)]


ARCHITECTURE = Architecture(model_type="exaone4", read=read, ignored_tensors=IGNORED_TENSORS, by_layer=by_layer)
