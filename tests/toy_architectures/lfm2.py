"""LFM2 (Liquid AI 2025) as a test needs it: short convolutions in some layers, attention in others.

No architecture of edgepress: rope is the plain one, and the MLP is as wide as ``intermediate_size`` says.
"""

from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    Sizes,
    layer_rms_norm,
    linear,
    read_sizes,
    rms_decoder,
    rms_norm,
    separate_attention,
)
from edgepress.exporter.model.description import Block, Decoder, Layer, Linear, Mixer, Weight, changed
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.mixers.short_conv import ShortConv
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

LAYER_TYPES = ("conv", "full_attention")


def read(config: Config) -> Decoder:
    """Read what the tests' checkpoints have."""
    sizes = read_sizes(
        config, vocab=65536, hidden=2560, intermediate=12288, layers=32, heads=32, kv_heads=8, context=128_000
    )
    types = config.optional_texts("layer_types", sizes.layers, LAYER_TYPES) or ["full_attention"] * sizes.layers
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("norm_eps", 1e-5, above=0.0)
    bias, taps = config.flag("conv_bias", False), config.integer("conv_L_cache", 3, minimum=2)
    for key in ("block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of", "full_attn_idxs"):
        config.without_effect(key)

    def layer(index: int) -> Layer:
        def block(mixer: Mixer, tensor: str) -> Block:
            return Block(norm=layer_rms_norm(index, f"{mixer.kind}_norm", tensor, sizes, epsilon=epsilon), mixer=mixer)

        is_conv = types[index] == "conv"
        first = _conv(index, sizes, taps, bias=bias) if is_conv else _attention(index, sizes, epsilon)
        return Layer((block(first, "operator_norm"), block(_mlp(index, sizes), "ffn_norm")))

    decoder = rms_decoder(config, "lfm2", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=True)
    return replace(decoder, final_norm=rms_norm("final_norm", "model.embedding_norm.weight", sizes.hidden, epsilon))


def _conv(index: int, sizes: Sizes, taps: int, *, bias: bool) -> ShortConv:
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
    norms = tuple(
        rms_norm(f"{name}.{role}_norm", f"{tensors}.{letter}_layernorm.weight", sizes.head_dim, epsilon)
        for role, letter in (("query", "q"), ("key", "k"))
    )
    attention = separate_attention(index, sizes, norms=(norms[0], norms[1]))
    return changed(Part, attention, lambda part: replace(part, tensor=part.tensor.replace("o_proj", "out_proj")))


def _mlp(index: int, sizes: Sizes) -> MLP:
    def projection(role: str, tensor: str, rows: int, columns: int) -> Linear:
        return linear(f"layers.{index}.mlp.{role}", f"model.layers.{index}.feed_forward.{tensor}", rows, columns)

    width, hidden = sizes.intermediate[index], sizes.hidden
    return MLP(
        gate=projection("gate", "w1", width, hidden),
        up=projection("up", "w3", width, hidden),
        down=projection("down", "w2", hidden, width),
        activation="silu",
    )


ARCHITECTURE = Architecture(model_type="lfm2", read=read)
