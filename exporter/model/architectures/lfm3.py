"""LFM3 (Liquid AI 2026): LFM2 with windows in some layers, norms behind its blocks and a gate for each head."""

from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    PROPORTIONAL,
    Sizes,
    layer_rms_norm,
    linear,
    query_and_key_norm,
    read_sizes,
    rms_decoder,
    rms_norm,
    separate_attention,
    whole_or_proportional_rope,
    windows_of,
)
from edgepress.exporter.model.architectures.lfm2 import mlp, short_conv
from edgepress.exporter.model.description import Block, Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.parts.primitives import Rope
from edgepress.exporter.source.config import Config

LAYER_TYPES = ("conv", "full_attention", "sliding_attention")
_THETAS = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}
_ROPES: dict[str, object] = {"full_attention": {"rope_type": PROPORTIONAL, "partial_rotary_factor": 0.5}}


def read(config: Config) -> Decoder:
    """Defaults are transformers' Lfm3Config's."""
    sizes = read_sizes(
        config,
        vocab=128_000,
        hidden=2048,
        intermediate=7680,
        layers=24,
        heads=16,
        kv_heads=4,
        head_dim=128,
        context=128_000,
    )
    types = _layer_types(config, sizes.layers)
    windows = windows_of(config, types, config.optional_integer("sliding_window", 256), sizes)
    epsilon = config.number("norm_eps", 1e-5, above=0.0)
    taps, conv_bias = config.integer("conv_L_cache", 7, minimum=2), config.flag("conv_bias", False)
    bias, gated = config.flag("attention_bias", False), config.flag("use_attention_gate", True)
    sandwiched = config.flag("use_sandwich_norm", True)

    def mixer(index: int) -> Mixer:
        if types[index] == "conv":
            return short_conv(index, sizes, taps, bias=conv_bias)
        attention = separate_attention(
            index,
            sizes,
            qkv_bias=bias,
            output_bias=bias,
            rope=types[index],
            window=windows[index],
            norms=query_and_key_norm(index, sizes, epsilon),
        )
        return _gated(attention, index, sizes) if gated else attention

    def layer(index: int) -> Layer:
        def block(mixer: Mixer, tensor: str) -> Block:
            role = mixer.kind
            return Block(
                norm=layer_rms_norm(index, f"{role}_norm", tensor, sizes, epsilon=epsilon),
                mixer=mixer,
                post_norm=layer_rms_norm(index, f"{role}_post_norm", f"post_{tensor}", sizes, epsilon=epsilon)
                if sandwiched
                else None,
            )

        return Layer((block(mixer(index), "operator_norm"), block(mlp(index, sizes), "ffn_norm")))

    ropes = _ropes(config, sizes, types)
    decoder = rms_decoder(config, "lfm3", sizes, layer, ropes=ropes, epsilon=epsilon, tied=True)
    return replace(decoder, final_norm=rms_norm("final_norm", "model.embedding_norm.weight", sizes.hidden, epsilon))


def _gated(attention: Attention, index: int, sizes: Sizes) -> Attention:
    tensor = f"model.layers.{index}.self_attn.gate_proj"
    return replace(attention, gate=linear(f"layers.{index}.attention.gate", tensor, sizes.heads, sizes.hidden))


def _ropes(config: Config, sizes: Sizes, types: list[str]) -> dict[str, Rope]:
    """A rope for each type of attention; without any said, full attention rotates half of its heads."""
    both = config.section("rope_parameters") or Config(_ROPES, config.where)
    both.without_effect(*(kind for kind in _THETAS if kind not in types))
    return {
        kind: whole_or_proportional_rope(
            both.section(kind) or Config({}, config.where), sizes.head_dim, sizes.context, theta
        )
        for kind, theta in _THETAS.items()
        if kind in types
    }


def by_layer(config: Config, layers: int) -> dict[str, list[str]]:
    """Of four layers the third attends to all, the first, but for that of the model, to a window."""
    return {"layer_types": _layer_types(config, layers)}


def _layer_types(config: Config, layers: int) -> list[str]:
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    usual = {2: "full_attention", 0: "sliding_attention"}
    return types or [usual.get(index % 4, "conv") if index else "conv" for index in range(layers)]


ARCHITECTURE = Architecture(
    model_type="lfm3",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    by_layer=by_layer,
    other_words={".self_attn.gate_proj.": ".self_attn.g_proj."},
    aliases={"rms_norm_eps": "norm_eps"},
)
