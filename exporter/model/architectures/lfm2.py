"""LFM2 and LFM2.5 (Liquid AI 2025): gated short convolutions in most layers, attention with norms by head in some."""

from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    layer_rms_norm,
    linear,
    read_sizes,
    rms_decoder,
    rms_norm,
    separate_attention,
)
from edgepress.exporter.model.description import Block, Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.mixers.short_conv import ShortConv
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.model.parts.tree import changed
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

LAYER_TYPES = ("conv", "full_attention")


def read(config: Config) -> Decoder:
    """Defaults are transformers' Lfm2Config's; ``block_ff_dim`` and ``tie_embedding`` win over the usual names."""
    sizes = read_sizes(
        config, vocab=65536, hidden=2560, intermediate=12288, layers=32, heads=32, kv_heads=8, context=128_000
    )
    sizes = replace(sizes, intermediate=_widths(config, sizes))
    types = _layer_types(config, sizes.layers)
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=1_000_000.0)
    epsilon = config.number("norm_eps", 1e-5, above=0.0)
    bias, taps = config.flag("conv_bias", False), config.integer("conv_L_cache", 3, minimum=2)
    tied = config.flag("tie_word_embeddings", True)
    config.without_effect("block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init")  # before training
    config.without_effect("conv_use_xavier_init")

    decoder = rms_decoder(
        config,
        "lfm2",
        sizes,
        lambda index: mixed_layer(
            index, sizes, epsilon, mlp(index, sizes), taps=taps if types[index] == "conv" else 0, bias=bias
        ),
        ropes={"default": rope},
        epsilon=epsilon,
        tied=config.flag("tie_embedding", tied),
    )
    return replace(decoder, final_norm=rms_norm("final_norm", "model.embedding_norm.weight", sizes.hidden, epsilon))


def mixed_layer(index: int, sizes: Sizes, epsilon: float, feed_forward: Mixer, *, taps: int, bias: bool) -> Layer:
    """A layer with a convolution of so many ``taps``, or with attention where there are none."""

    def block(mixer: Mixer, tensor: str) -> Block:
        return Block(norm=layer_rms_norm(index, f"{mixer.kind}_norm", tensor, sizes, epsilon=epsilon), mixer=mixer)

    first = short_conv(index, sizes, taps, bias=bias) if taps else _attention(index, sizes, epsilon)
    return Layer((block(first, "operator_norm"), block(feed_forward, "ffn_norm")))


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Which layers attend, where the config lists their numbers or none."""
    return {"layer_types": _layer_types(config, layers)}


def _layer_types(config: Config, layers: int) -> list[str]:
    """Read ``layer_types``, else attention in the layers of ``full_attn_idxs``, or in all of them."""
    attending = config.optional_integers("full_attn_idxs", 0)
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    if types is None:
        attending = list(range(layers)) if attending is None else attending
        types = [LAYER_TYPES[index in attending] for index in range(layers)]
    return types


def _widths(config: Config, sizes: Sizes) -> tuple[int, ...]:
    """Each MLP's width: as the config says, or adjusted: ⅔ of that, × a multiplier, rounded up to a multiple."""
    asked = sizes.intermediate
    if config.has("block_ff_dim"):
        asked = config.integers_by_layer("block_ff_dim", 0, sizes.layers)
    multiplier = config.optional_number("block_ffn_dim_multiplier", 1.0, above=0.0)
    multiple = config.integer("block_multiple_of", 256)
    if not config.flag("block_auto_adjust_ff_dim", True):
        return asked
    widths = tuple(int(2 * width / 3) for width in asked)
    if multiplier is not None:  # without one transformers does not round either
        widths = tuple(-(-int(multiplier * width) // multiple) * multiple for width in widths)
    if min(widths) < 1:
        raise config.refuse("block_ffn_dim_multiplier", f"leaves no channel of an MLP that is {min(asked)} wide")
    return widths


def short_conv(index: int, sizes: Sizes, taps: int, *, bias: bool) -> ShortConv:
    """``conv.{in_proj,conv,out_proj}``."""
    name, tensors, hidden = f"layers.{index}.short_conv", f"model.layers.{index}.conv", sizes.hidden
    kernel = Part(f"{tensors}.conv.weight", 0, hidden)
    kernel_bias = Weight(f"{name}.bias", "bias", (hidden,), (Part(f"{tensors}.conv.bias", 0, hidden),))
    return ShortConv(
        inputs=linear(f"{name}.inputs", f"{tensors}.in_proj", 3 * hidden, hidden, bias=bias),
        kernel=Weight(f"{name}.kernel", "kernel", (hidden, 1, taps), (kernel,)),
        bias=kernel_bias if bias else None,
        output=linear(f"{name}.output", f"{tensors}.out_proj", hidden, hidden, bias=bias),
    )


def _attention(index: int, sizes: Sizes, epsilon: float) -> Attention:
    name, tensors = f"layers.{index}.attention", f"model.layers.{index}.self_attn"
    query_norm, key_norm = (
        rms_norm(f"{name}.{role}_norm", f"{tensors}.{letter}_layernorm.weight", sizes.head_dim, epsilon)
        for role, letter in (("query", "q"), ("key", "k"))
    )
    attention = separate_attention(index, sizes, norms=(query_norm, key_norm))
    return changed(Part, attention, lambda part: replace(part, tensor=part.tensor.replace("o_proj", "out_proj")))


def mlp(index: int, sizes: Sizes) -> MLP:
    """``feed_forward.{w1,w3,w2}``: gate, up and down."""

    def projection(role: str, tensor: str, rows: int, columns: int) -> Linear:
        return linear(f"layers.{index}.mlp.{role}", f"model.layers.{index}.feed_forward.{tensor}", rows, columns)

    width, hidden = sizes.intermediate[index], sizes.hidden
    return MLP(
        gate=projection("gate", "w1", width, hidden),
        up=projection("up", "w3", width, hidden),
        down=projection("down", "w2", hidden, width),
        activation="silu",
    )


ARCHITECTURE = Architecture(
    model_type="lfm2",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    width_key="block_ff_dim",
    with_width={"block_auto_adjust_ff_dim": False},
    by_layer=by_layer,
)
