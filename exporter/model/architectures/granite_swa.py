"""Granite with sliding windows (IBM 2026): Granite with a sink for each head, and rotary bases by layer."""

from collections.abc import Callable
from dataclasses import replace

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
from edgepress.exporter.model.description import Decoder, Layer, Mixer
from edgepress.exporter.model.parts.primitives import Rope, Weight
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_FULL_EVERY = 4  # by default, from the first layer on
_THETA = 10_000.0  # by default


def read(config: Config) -> Decoder:
    """Defaults are transformers' GraniteSWAConfig's; ``attention_multiplier`` is the scale itself, 1.0 by default."""
    sizes = read_sizes(
        config, vocab=100_352, hidden=2560, intermediate=8192, layers=24, heads=20, kv_heads=4, context=8192
    )
    activation, bias = read_activation(config, "hidden_act", "silu"), config.flag("mlp_bias", False)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    return decoder(
        config,
        "granite_swa",
        sizes,
        lambda index: gated_mlp(index, sizes, activation, bias=bias),
        epsilon=epsilon,
        tied=True,
    )


def decoder(
    config: Config, model_type: str, sizes: Sizes, feed_forward: Callable[[int], Mixer], *, epsilon: float, tied: bool
) -> Decoder:
    """A decoder of that form with ``feed_forward(index)`` in each layer."""
    types = _layer_types(config, sizes.layers)
    windows = windows_of(config, types, config.optional_integer("sliding_window", 128), sizes)
    bases = _bases(config, sizes.layers)
    bias = config.flag("attention_bias", False)
    scale = config.number("attention_multiplier", 1.0, above=0.0)
    residual_multiplier = config.number("residual_multiplier", 1.0)

    def layer(index: int) -> Layer:
        sinks = Weight(
            f"layers.{index}.attention.sinks",
            "bias",
            (sizes.heads,),
            (Part(f"model.layers.{index}.self_attn.sinks", 0, sizes.heads),),
        )
        attention = separate_attention(
            index,
            sizes,
            scale=scale,
            qkv_bias=bias,
            output_bias=bias,
            rope=_name(bases, index),
            window=windows[index],
        )
        attention = replace(attention, sinks=sinks)
        return pre_norm_layer(
            index, sizes, epsilon, attention, feed_forward(index), residual_multiplier=residual_multiplier
        )

    return rms_decoder(
        config,
        model_type,
        sizes,
        layer,
        ropes=_ropes(config, bases, sizes.head_dim, sizes.context),
        epsilon=epsilon,
        tied=tied,
        embedding_multiplier=config.number("embedding_multiplier", 1.0),
        logits_multiplier=1.0 / config.number("logits_scaling", 1.0, above=0.0),
    )


def _bases(config: Config, layers: int) -> list[float] | None:
    """The base of each layer's rope; None where all have that of ``rope_parameters``."""
    found = config.optional_numbers("layer_rope_theta", layers)
    said = config.values.get("rope_parameters") or config.values.get("rope_scaling")
    usual = said.get("rope_theta", _THETA) if isinstance(said, dict) else _THETA
    return None if found is not None and set(found) == {usual} else found


def _name(bases: list[float] | None, index: int) -> str | None:
    """The rope of a layer; one whose base is 0 has none."""
    if bases is None:
        return "default"
    return f"{bases[index]:g}" if bases[index] else None


def _ropes(config: Config, bases: list[float] | None, head_dim: int, context: int) -> dict[str, Rope]:
    """A rope for each base: ``rope_parameters`` with that base in it."""
    plain = read_rope(config, head_dim=head_dim, context_length=context)
    if bases is None:
        return {"default": plain}
    said = config.values.get("rope_parameters") or config.values.get("rope_scaling")
    rope = said if isinstance(said, dict) else {}
    found = {}
    for base in sorted({base for base in bases if base}):
        section = {"rope_parameters": {**rope, "rope_theta": base}}
        found[f"{base:g}"] = read_rope(Config(section, config.where), head_dim=head_dim, context_length=context)
    return found


def by_layer(config: Config, layers: int) -> dict[str, list[str] | list[float]]:
    """Full attention in every fourth layer from the first one on, and the base of each layer's rope."""
    bases = config.optional_numbers("layer_rope_theta", layers)
    return {"layer_types": _layer_types(config, layers)} | ({} if bases is None else {"layer_rope_theta": bases})


def _layer_types(config: Config, layers: int) -> list[str]:
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[index % _FULL_EVERY != 0] for index in range(layers)]


ARCHITECTURE = Architecture(
    model_type="granite_swa",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    by_layer=by_layer,
    keeps_heads="each head has a sink",
)
