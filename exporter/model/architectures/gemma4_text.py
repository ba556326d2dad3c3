"""Gemma 4's text model (Google 2026), of the sizes without experts.

Four norms in a layer, keys and values normed too; two head sizes; the last layers share keys and values; a table of
inputs for each layer beside the stream, whose number multiplies it at the end of the layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    PROPORTIONAL,
    Sizes,
    gated_mlp,
    layer_rms_norm,
    linear,
    matrix,
    query_and_key_norm,
    read_activation,
    read_sizes,
    rms_decoder,
    rms_norm,
    separate_attention,
    whole_or_proportional_rope,
    windows_of,
)
from edgepress.exporter.model.description import Block, Decoder, Layer, Mixer, PerLayer, Rope, Weight
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.per_layer_input import PerLayerInput
from edgepress.exporter.model.mixers.shared_attention import SharedAttention
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_SLIDING = "sliding_attention"
_THETAS = {"full_attention": 1_000_000.0, _SLIDING: 10_000.0}


@dataclass(frozen=True)
class _Sharing:
    """For each layer type, which layer's keys and values the last layers read, and where they are beside the stream."""

    first: int  # the first layer that has none of its own
    of: Mapping[str, int]
    at: Mapping[str, int]


def read(config: Config) -> Decoder:
    """Defaults are transformers' Gemma4TextConfig's."""
    sizes = read_sizes(
        config,
        vocab=262_144,
        hidden=2304,
        intermediate=9216,
        layers=30,
        heads=8,
        kv_heads=4,
        head_dim=256,
        context=131_072,
    )
    if config.flag("enable_moe_block", False):
        raise config.refuse("enable_moe_block", "Gemma 4 with experts is not implemented; the sizes without them are")
    types = _layer_types(config, sizes.layers)
    by_layer = _sizes_by_layer(config, sizes, types)
    windows = windows_of(config, types, config.integer("sliding_window", 512), sizes)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh")
    bias, alike = config.flag("attention_bias", False), config.flag("attention_k_eq_v", False)
    config.text("use_bidirectional_attention", "vision", ("vision",))  # of the tokens of an image; text is causal
    width = config.optional_integer("hidden_size_per_layer_input", 256, minimum=0) or 0
    if width and activation != "gelu_tanh":
        raise config.refuse("hidden_activation", "inputs by layer are gated by gelu_pytorch_tanh only")
    sharing = _sharing(config, by_layer, types, width * sizes.layers)
    if config.flag("use_double_wide_mlp", False):
        wide = tuple(n * (2 if index >= sharing.first else 1) for index, n in enumerate(sizes.intermediate))
        by_layer = [replace(one, intermediate=wide) for one in by_layer]

    def attention(index: int) -> Mixer:
        own, kind = by_layer[index], types[index]
        found = separate_attention(
            index,
            own,
            scale=1.0,
            qkv_bias=bias,
            output_bias=bias,
            rope=kind,
            window=windows[index],
            norms=query_and_key_norm(index, own, epsilon),
        )
        if index >= sharing.first:
            return _shared(found, own, sharing.of[kind], sharing.at[kind])
        if alike and kind != _SLIDING:
            found = _with_keys_as_values(found)
        stored = sharing.at[kind] if sharing.first < sizes.layers and index == sharing.of[kind] else None
        return replace(found, value_norm=epsilon, stored_at=stored)

    def layer(index: int) -> Layer:
        def block(mixer: Mixer, role: str, before: str, after: str) -> Block:
            return Block(
                norm=layer_rms_norm(index, f"{role}_norm", before, sizes, epsilon=epsilon) if before else None,
                mixer=mixer,
                post_norm=layer_rms_norm(index, f"{role}_post_norm", after, sizes, epsilon=epsilon),
            )

        blocks = [
            block(attention(index), "attention", "input_layernorm", "post_attention_layernorm"),
            block(
                gated_mlp(index, by_layer[index], activation),
                "mlp",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ),
        ]
        if width:
            blocks.append(block(_per_layer_input(index, sizes, width), "per_layer", "", "post_per_layer_input_norm"))
        scalar = Weight(f"layers.{index}.scale", "norm", (1,), (Part(f"model.layers.{index}.layer_scalar", 0, 1),))
        return Layer(tuple(blocks), scale=scalar)

    found = rms_decoder(
        config,
        "gemma4_text",
        sizes,
        layer,
        ropes=_ropes(config, by_layer, types),
        epsilon=epsilon,
        tied=True,
        embedding_multiplier=sizes.hidden**0.5,
        logits_softcap=config.optional_number("final_logit_softcapping", above=0.0) or 0.0,
    )
    return replace(found, per_layer=_per_layer(config, sizes, width, epsilon) if width else None)


def _layer_types(config: Config, layers: int) -> list[str]:
    """Read ``layer_types``, or full attention in every sixth layer; the last one is full in any case."""
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    types = types or [LAYER_TYPES[bool((index + 1) % 6)] for index in range(layers)]
    return [*types[:-1], "full_attention"]


def _sizes_by_layer(config: Config, sizes: Sizes, types: list[str]) -> list[Sizes]:
    """Each layer's sizes: full attention has wider heads, and with ``attention_k_eq_v`` another number of keys.

    transformers saves ``per_layer_config``, sizes by the number of a layer, from ``global_head_dim`` and
    ``num_global_key_value_heads``, which the published configs have.
    """
    overrides = config.section("per_layer_config")
    wide = config.integer("global_head_dim", 512)
    groups = config.optional_integer("num_global_key_value_heads") if config.flag("attention_k_eq_v", False) else None
    config.without_effect("num_global_key_value_heads")  # where keys are no values
    numbers = {int(key): key for key in (overrides.values if overrides else ()) if key.isdecimal()}  # some are "05"
    found = []
    for index, kind in enumerate(types):
        own = None if overrides is None else overrides.section(numbers.get(index, ""))
        if own is not None:
            head_dim = own.integer("head_dim", sizes.head_dim)
            kv_heads = own.integer("num_key_value_heads", sizes.kv_heads)
        elif overrides is None and kind != _SLIDING:
            head_dim, kv_heads = wide, groups or sizes.kv_heads
        else:
            head_dim, kv_heads = sizes.head_dim, sizes.kv_heads
        if sizes.heads % kv_heads:
            raise config.refuse("num_global_key_value_heads", f"must divide num_attention_heads = {sizes.heads}")
        found.append(replace(sizes, head_dim=head_dim, kv_heads=kv_heads))
    return found


def _sharing(config: Config, by_layer: list[Sizes], types: list[str], columns: int) -> _Sharing:
    """Who shares what; beside the stream, keys and values stand after the ``columns`` of inputs by layer."""
    count = config.integer("num_kv_shared_layers", 0, minimum=0)
    first = len(types) - count
    of = {kind: index for index, kind in enumerate(types[: max(first, 0)])}
    if first <= 0 or not {*types[first:]} <= of.keys():
        raise config.refuse("num_kv_shared_layers", "a layer that shares keys has none of its type before it")
    at: dict[str, int] = {}
    for kind, index in sorted(of.items()):
        at[kind] = columns
        columns += 2 * by_layer[index].kv_heads * by_layer[index].head_dim
    return _Sharing(first, of, at)


def _shared(own: Attention, sizes: Sizes, layer: int, at: int) -> SharedAttention:
    """The same with the queries alone of its projection, reading the keys and values of ``layer``."""
    rows = sizes.heads * sizes.head_dim
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


def _with_keys_as_values(attention: Attention) -> Attention:
    """The same where keys, before their norm, are the values: their rows are there twice."""

    def twice(weight: Weight) -> Weight:
        queries, keys, _ = weight.parts
        return replace(weight, parts=(queries, keys, keys))

    qkv = attention.qkv
    bias = None if qkv.bias is None else twice(qkv.bias)
    return replace(attention, qkv=replace(qkv, weight=twice(qkv.weight), bias=bias))


def _per_layer_input(index: int, sizes: Sizes, width: int) -> PerLayerInput:
    name, tensors = f"layers.{index}.per_layer_input", f"model.layers.{index}"
    return PerLayerInput(
        gate=linear(f"{name}.gate", f"{tensors}.per_layer_input_gate", width, sizes.hidden),
        output=linear(f"{name}.output", f"{tensors}.per_layer_projection", sizes.hidden, width),
        first=index * width,
    )


def _per_layer(config: Config, sizes: Sizes, width: int, epsilon: float) -> PerLayer:
    """Table and projection of the inputs by layer.

    The projection is divided by sqrt(hidden) before its norm, which is the same as an ε that is so much larger.
    """
    rows, columns = config.integer("vocab_size_per_layer_input", 262_144), width * sizes.layers
    if rows < sizes.vocab:
        raise config.refuse("vocab_size_per_layer_input", f"is less than vocab_size = {sizes.vocab}")
    half = 2.0**-0.5
    projection = linear("per_layer.projection", "model.per_layer_model_projection", columns, sizes.hidden)
    return PerLayer(
        table=matrix("per_layer.table", "embedding", "model.embed_tokens_per_layer.weight", rows, columns),
        multiplier=width**0.5 * half,
        projection=replace(projection, weight=replace(projection.weight, kind="embedding")),
        norm=rms_norm("per_layer.norm", "model.per_layer_projection_norm.weight", width, epsilon * sizes.hidden),
        scale=half,
    )


def _ropes(config: Config, by_layer: list[Sizes], types: list[str]) -> dict[str, Rope]:
    """Read a rope for each layer type in use; without any, full attention rotates a quarter of its heads."""
    both = config.section("rope_parameters")
    if both is None:
        both = Config({"full_attention": {"rope_type": PROPORTIONAL, "partial_rotary_factor": 0.25}}, config.where)
    found = {}
    for kind in LAYER_TYPES:
        section = both.section(kind) or Config({}, config.where)
        head_dim = next((own.head_dim for own, one in zip(by_layer, types, strict=True) if one == kind), 0)
        if head_dim:
            found[kind] = whole_or_proportional_rope(section, head_dim, by_layer[0].context, _THETAS[kind])
    return found


ARCHITECTURE = Architecture(
    model_type="gemma4_text",
    read=read,
    ignored_tensors=(
        *IGNORED_TENSORS,
        r"(model\.)?layers\.\d+\.self_attn\.[kv]_(proj|norm)\.weight",  # of layers that share those of another
    ),
    keeps_sizes="heads of two sizes, keys that layers share, inputs by layer",
    config_keys=("moe_intermediate_size", "num_experts", "partial_rotary_factor", "top_k_experts"),
)
