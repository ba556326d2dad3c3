"""What Gemma 3n and Gemma 4 have in common: keys and values that layers share, inputs by layer from one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgepress.exporter.model.architectures._common import Sizes, linear, matrix, rms_norm
from edgepress.exporter.model.description import PerLayer
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.mlp import Activation
from edgepress.exporter.model.mixers.per_layer_input import PerLayerInput
from edgepress.exporter.model.mixers.shared_attention import SharedAttention
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.source.config import Config

IGNORED_TENSORS = (r"(model\.)?layers\.\d+\.self_attn\.[kv]_(proj|norm)\.weight",)  # of layers that share others' keys


@dataclass(frozen=True)
class Sharing:
    """For each layer type, which layer's keys and values the last layers read, and where they are beside the stream."""

    first: int  # the first layer that has none of its own
    of: Mapping[str, int]
    at: Mapping[str, int]

    def attention(self, index: int, kind: str, own: Attention, value_norm: float) -> Attention | SharedAttention:
        """A layer's attention, of which ``own`` is what it would be if no layer shared anything."""
        if index >= self.first:
            return _shared(own, self.of[kind], self.at[kind])
        is_read = index == self.of[kind] and kind in self.at
        return replace(own, value_norm=value_norm, stored_at=self.at[kind] if is_read else None)


def read_sharing(config: Config, default: int, by_layer: Sequence[Sizes], types: list[str], columns: int) -> Sharing:
    """Who shares what; beside the stream, keys and values stand after the ``columns`` of inputs by layer."""
    count = config.integer("num_kv_shared_layers", default, minimum=0)
    first = len(types) - count
    of = {kind: index for index, kind in enumerate(types[: max(first, 0)])}
    if first <= 0 or not {*types[first:]} <= of.keys():
        raise config.refuse("num_kv_shared_layers", "a layer that shares keys has none of its type before it")
    at: dict[str, int] = {}
    for kind, index in sorted(of.items()):
        if count:
            at[kind] = columns
            columns += 2 * by_layer[index].kv_heads * by_layer[index].head_dim
    return Sharing(first, of, at)


def _shared(own: Attention, layer: int, at: int) -> SharedAttention:
    """The same with the queries alone of its projection, reading the keys and values of ``layer``."""
    rows = own.widths[0]
    weight, bias = own.qkv.weight, own.qkv.bias
    query = replace(own.qkv, weight=_first_part(weight, rows), bias=None if bias is None else _first_part(bias, rows))
    name = weight.name.removesuffix("attention.qkv")
    output = replace(own.output, weight=replace(own.output.weight, name=f"{name}shared_attention.output"))
    return SharedAttention(
        heads=own.heads,
        kv_heads=own.kv_heads,
        head_dim=own.head_dim,
        scale=own.scale,
        query=query,
        query_norm=own.query_norm,
        output=output,
        rope=own.rope,
        window=own.window,
        keys_of=layer,
        stored_at=at,
    )


def _first_part(weight: Weight, rows: int) -> Weight:
    """What comes from the first of the tensors that a weight is made of."""
    name = weight.name.replace("attention.qkv", "shared_attention.query")
    return replace(weight, name=name, shape=(rows, *weight.shape[1:]), parts=weight.parts[:1])


def check_gate(config: Config, activation: Activation) -> None:
    """Refuse another activation than inputs by layer are gated by."""
    if activation != "gelu_tanh":
        raise config.refuse("hidden_activation", "inputs by layer are gated by gelu_pytorch_tanh only")


def per_layer_input(index: int, sizes: Sizes, width: int) -> PerLayerInput:
    """A layer's gate and projection of its input."""
    name, tensors = f"layers.{index}.per_layer_input", f"model.layers.{index}"
    return PerLayerInput(
        gate=linear(f"{name}.gate", f"{tensors}.per_layer_input_gate", width, sizes.hidden),
        output=linear(f"{name}.output", f"{tensors}.per_layer_projection", sizes.hidden, width),
        first=index * width,
    )


def read_per_layer(config: Config, sizes: Sizes, width: int, epsilon: float) -> PerLayer:
    """Table and projection of the inputs by layer.

    The projection is divided by sqrt(hidden) before its norm, which is the same as an ε that is so much larger.
    """
    rows, columns = config.integer("vocab_size_per_layer_input", 262_144), width * sizes.layers
    half = 2.0**-0.5
    projection = linear("per_layer.projection", "model.per_layer_model_projection", columns, sizes.hidden)
    return PerLayer(
        table=matrix("per_layer.table", "embedding", "model.embed_tokens_per_layer.weight", rows, columns),
        multiplier=width**0.5 * half,
        projection=replace(projection, weight=replace(projection.weight, kind="embedding")),
        norm=rms_norm("per_layer.norm", "model.per_layer_projection_norm.weight", width, epsilon * sizes.hidden),
        scale=half,
    )
