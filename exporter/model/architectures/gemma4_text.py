"""Gemma 4's text model (Google 2026).

Four norms in a layer, keys and values normed too; two head sizes; the last layers share keys and values; a table of
inputs for each layer beside the stream, whose number multiplies it at the end of the layer; a mixture of experts beside
each MLP.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from edgepress.exporter.model.architectures import Architecture, _gemma
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    PROPORTIONAL,
    Sizes,
    gated_mlp,
    layer_rms_norm,
    norm_without_gain,
    query_and_key_norm,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
    whole_or_proportional_rope,
    windows_of,
)
from edgepress.exporter.model.architectures._experts import router
from edgepress.exporter.model.description import Block, Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.gelu_experts import GeluExpert, GeluExperts
from edgepress.exporter.model.mixers.mixture_of_experts import Routing
from edgepress.exporter.model.mixers.mlp import Activation
from edgepress.exporter.model.parts.primitives import Linear, Norm, Rope, Weight
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_SLIDING = "sliding_attention"
_THETAS = {"full_attention": 1_000_000.0, _SLIDING: 10_000.0}


@dataclass(frozen=True)
class _Experts:
    """How many experts a layer has, to how many each token goes, and their width."""

    count: int
    chosen: int
    width: int


@dataclass(frozen=True)
class _Model:
    """What a layer is made of, by its number."""

    sizes: Sizes
    by_layer: tuple[Sizes, ...]
    types: list[str]
    windows: list[int | None]
    sharing: _gemma.Sharing
    activation: Activation
    epsilon: float
    bias: bool
    alike: bool  # whether keys are values in full attention
    inputs: int  # columns of each layer's input beside the stream
    experts: _Experts | None


def read(config: Config) -> Decoder:
    """Defaults are transformers' Gemma4TextConfig's."""
    inputs = config.optional_integer("hidden_size_per_layer_input", 256, minimum=0) or 0
    model = _read_model(config, context=131_072, window=512, inputs=inputs)
    return _assembled(config, "gemma4_text", replace(model, experts=_read_experts(config, model.activation)))


def read_dense(config: Config, model_type: str, *, context: int, window: int) -> Decoder:
    """A model with neither inputs by layer nor experts; ``context`` and ``window`` are the family's defaults."""
    return _assembled(config, model_type, _read_model(config, context=context, window=window, inputs=0))


def _assembled(config: Config, model_type: str, model: _Model) -> Decoder:
    found = rms_decoder(
        config,
        model_type,
        model.sizes,
        partial(_layer, model),
        ropes=_ropes(config, model.by_layer, model.types),
        epsilon=model.epsilon,
        tied=True,
        embedding_multiplier=model.sizes.hidden**0.5,
        logits_softcap=config.optional_number("final_logit_softcapping", above=0.0) or 0.0,
    )
    if not model.inputs:
        return found
    _gemma.check_gate(config, model.activation)
    per_layer = _gemma.read_per_layer(config, model.sizes, model.inputs, model.epsilon)
    if (rows := per_layer.table.shape[0]) < model.sizes.vocab:
        raise config.refuse("vocab_size_per_layer_input", f"{rows} is less than vocab_size = {model.sizes.vocab}")
    return replace(found, per_layer=per_layer)


def _read_experts(config: Config, activation: Activation) -> _Experts | None:
    keys = ("num_experts", "top_k_experts", "moe_intermediate_size")
    if not config.flag("enable_moe_block", False):
        config.without_effect(*keys)
        return None
    if activation != "gelu_tanh":
        raise config.refuse("hidden_activation", "experts are gated by gelu_pytorch_tanh only")
    count, chosen, width = map(config.integer, keys)
    if chosen > count:
        raise config.refuse("top_k_experts", f"must be at most num_experts = {count}")
    return _Experts(count, chosen, width)


def _read_model(config: Config, *, context: int, window: int, inputs: int) -> _Model:
    sizes = read_sizes(
        config,
        vocab=262_144,
        hidden=2304,
        intermediate=9216,
        layers=30,
        heads=8,
        kv_heads=4,
        head_dim=256,
        context=context,
    )
    types = _layer_types(config, sizes.layers)
    by_layer = _sizes_by_layer(config, sizes, types)
    config.text("use_bidirectional_attention", "vision", ("vision",))  # of the tokens of an image; text is causal
    sharing = _gemma.read_sharing(config, 0, by_layer, types, inputs * sizes.layers)
    if config.flag("use_double_wide_mlp", False):
        wide = tuple(n * (2 if index >= sharing.first else 1) for index, n in enumerate(sizes.intermediate))
        by_layer = [replace(one, intermediate=wide) for one in by_layer]
    return _Model(
        sizes=sizes,
        by_layer=tuple(by_layer),
        types=types,
        windows=windows_of(config, types, config.integer("sliding_window", window), sizes),
        sharing=sharing,
        activation=read_activation(config, "hidden_activation", "gelu_pytorch_tanh"),
        epsilon=config.number("rms_norm_eps", 1e-6, above=0.0),
        bias=config.flag("attention_bias", False),
        alike=config.flag("attention_k_eq_v", False),
        inputs=inputs,
        experts=None,
    )


def _layer(model: _Model, index: int) -> Layer:
    def block(mixer: Mixer, role: str, before: str, after: str) -> Block:
        return Block(
            norm=layer_rms_norm(index, f"{role}_norm", before, model.sizes, epsilon=model.epsilon) if before else None,
            mixer=mixer,
            post_norm=layer_rms_norm(index, f"{role}_post_norm", after, model.sizes, epsilon=model.epsilon),
        )

    mlp = gated_mlp(index, model.by_layer[index], model.activation)
    feed_forward = block(mlp, "mlp", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    blocks = [block(_attention(model, index), "attention", "input_layernorm", "post_attention_layernorm")]
    blocks += [feed_forward] if model.experts is None else _with_experts(model, model.experts, index, feed_forward)
    if model.inputs:
        inputs = _gemma.per_layer_input(index, model.sizes, model.inputs)
        blocks.append(block(inputs, "per_layer", "", "post_per_layer_input_norm"))
    scalar = Weight(f"layers.{index}.scale", "norm", (1,), (Part(f"model.layers.{index}.layer_scalar", 0, 1),))
    return Layer(tuple(blocks), scale=scalar)


def _with_experts(model: _Model, experts: _Experts, index: int, mlp: Block) -> list[Block]:
    """MLP and experts beside each other, each with a norm behind it, and their sum with the norm of the MLP alone."""
    hidden, epsilon = model.sizes.hidden, model.epsilon

    def norm(role: str, tensor: str) -> Norm:
        return layer_rms_norm(index, role, tensor, model.sizes, epsilon=epsilon)

    routed = Block(
        norm=norm_without_gain(f"layers.{index}.experts_norm", hidden, epsilon, "rms"),
        mixer=_experts(model.sizes, experts, index),
        post_norm=norm("experts_post_norm", "post_feedforward_layernorm_2"),
        beside=True,
        sum_norm=norm("feed_forward_post_norm", "post_feedforward_layernorm"),
    )
    return [replace(mlp, post_norm=norm("mlp_post_norm", "post_feedforward_layernorm_1")), routed]


def _experts(sizes: Sizes, experts: _Experts, index: int) -> GeluExperts:
    tensors, name = f"model.layers.{index}", f"layers.{index}.experts"

    def gain(role: str, tensor: str, size: int) -> Weight:
        return Weight(f"{name}.{role}", "norm", (size,), (Part(f"{tensors}.{tensor}", 0, size),))

    def linear(number: int, role: str, tensor: str, rows: int, columns: int) -> Linear:
        part = Part(f"{tensors}.experts.{tensor}", 0, rows, index=number)
        return Linear(Weight(f"{name}.{number}.{role}", "linear", (rows, columns), (part,), expert=True))

    return GeluExperts(
        router_gain=gain("router_gain", "router.scale", sizes.hidden),
        router=router(index, f"{tensors}.router.proj", experts.count, sizes.hidden),
        gain=gain("gain", "pre_feedforward_layernorm_2.weight", sizes.hidden),
        experts=tuple(
            GeluExpert(
                gate_up=linear(number, "gate_up", "gate_up_proj", 2 * experts.width, sizes.hidden),
                down=linear(number, "down", "down_proj", sizes.hidden, experts.width),
            )
            for number in range(experts.count)
        ),
        expert_scale=gain("expert_scale", "router.per_expert_scale", experts.count),
        routing=Routing(count=experts.chosen),
    )


def _attention(model: _Model, index: int) -> Mixer:
    sizes, kind = model.by_layer[index], model.types[index]
    own = separate_attention(
        index,
        sizes,
        scale=1.0,
        qkv_bias=model.bias,
        output_bias=model.bias,
        rope=kind,
        window=model.windows[index],
        norms=query_and_key_norm(index, sizes, model.epsilon),
    )
    if model.alike and kind != _SLIDING:
        own = _with_keys_as_values(own)
    return model.sharing.attention(index, kind, own, model.epsilon)


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


def _with_keys_as_values(attention: Attention) -> Attention:
    """The same where keys, before their norm, are the values: their rows are there twice."""

    def twice(weight: Weight) -> Weight:
        queries, keys, _ = weight.parts
        return replace(weight, parts=(queries, keys, keys))

    qkv = attention.qkv
    bias = None if qkv.bias is None else twice(qkv.bias)
    return replace(attention, qkv=replace(qkv, weight=twice(qkv.weight), bias=bias))


def _ropes(config: Config, by_layer: Sequence[Sizes], types: list[str]) -> dict[str, Rope]:
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
    ignored_tensors=(*IGNORED_TENSORS, *_gemma.IGNORED_TENSORS),
    keeps_sizes="heads of two sizes, keys that layers share, inputs by layer",
    config_keys=("partial_rotary_factor",),
)
