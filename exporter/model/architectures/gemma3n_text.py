"""Gemma 3n's text model (Google 2025): a layer computes one of several copies of the residual stream (AltUp).

Beside attention stands a product of low rank (LAuReL), the first layers' gates are sparse, the last layers share keys
and values, and a table has an input for each layer, which goes to the other copies.
"""

from dataclasses import dataclass, replace
from functools import partial

from edgepress.exporter.model.architectures import Architecture, _gemma
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    Sizes,
    gated_mlp,
    layer_rms_norm,
    linear,
    matrix,
    query_and_key_norm,
    read_activation,
    read_ropes,
    read_sizes,
    rms_decoder,
    separate_attention,
    windows_of,
)
from edgepress.exporter.model.description import AltUp, Block, Copies, Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.laurel import Laurel
from edgepress.exporter.model.mixers.mlp import Activation
from edgepress.exporter.model.parts.primitives import Linear, Norm, Weight
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_FULL_EVERY = 5  # layers, where the config lists no types
_SPARSE_LAYERS, _SPARSITY = 10, 0.95  # of models with more layers, where the config lists none


@dataclass(frozen=True)
class _Model:
    """What a layer is made of, by its number."""

    sizes: Sizes
    types: list[str]
    windows: list[int | None]
    sharing: _gemma.Sharing
    sparsities: list[float]
    activation: Activation
    epsilon: float
    bias: bool
    inputs: int  # columns of each layer's input beside the stream
    rank: int  # of LAuReL
    copies: int
    active: int
    scales: bool  # whether the corrected active copy is scaled where it gates the layer's input


def read(config: Config) -> Decoder:
    """Defaults are transformers' Gemma3nTextConfig's; ``rope_local_base_freq`` is version 4's θ of sliding layers."""
    model = _read_model(config)
    sizes = model.sizes
    thetas = {
        "full_attention": config.number("rope_theta", 1_000_000.0, above=1.0),
        "sliding_attention": config.number("rope_local_base_freq", 10_000.0, above=1.0),
    }
    found = rms_decoder(
        config,
        "gemma3n_text",
        sizes,
        partial(_layer, model),
        ropes=read_ropes(config, sizes, model.types, thetas),
        epsilon=model.epsilon,
        tied=True,
        embedding_multiplier=sizes.hidden**0.5,
        logits_softcap=config.optional_number("final_logit_softcapping", 30.0, above=0.0) or 0.0,
    )
    per_layer = _gemma.read_per_layer(config, sizes, model.inputs, model.epsilon)
    return replace(found, per_layer=per_layer, copies=_copies(sizes.hidden, model.copies))


def _read_model(config: Config) -> _Model:
    sizes = read_sizes(
        config,
        vocab=262_400,
        hidden=2048,
        intermediate=16_384,
        layers=35,
        heads=8,
        kv_heads=2,
        head_dim=256,
        context=32_768,
    )
    types = _layer_types(config, sizes.layers)
    inputs = config.integer("hidden_size_per_layer_input", 256)
    activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh")
    _gemma.check_gate(config, activation)
    copies, active = config.integer("altup_num_inputs", 4), config.integer("altup_active_idx", 0, minimum=0)
    if copies == 1:
        raise config.refuse("altup_num_inputs", "must be at least 2; a stream of one copy is another model")
    if active >= copies:
        raise config.refuse("altup_active_idx", f"must be less than altup_num_inputs = {copies}")
    config.without_effect("altup_coef_clip")  # of weights while they are trained
    return _Model(
        sizes=sizes,
        types=types,
        windows=windows_of(config, types, config.integer("sliding_window", 512), sizes),
        sharing=_gemma.read_sharing(config, 15, [sizes] * sizes.layers, types, inputs * sizes.layers),
        sparsities=_sparsities(config, sizes.layers),
        activation=activation,
        epsilon=config.number("rms_norm_eps", 1e-6, above=0.0),
        bias=config.flag("attention_bias", False),
        inputs=inputs,
        rank=config.integer("laurel_rank", 64),
        copies=copies,
        active=active,
        scales=config.flag("altup_correct_scale", True),
    )


def _layer_types(config: Config, layers: int) -> list[str]:
    """Read ``layer_types``, or full attention in every fifth layer."""
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[bool((index + 1) % _FULL_EVERY)] for index in range(layers)]


def _sparsities(config: Config, layers: int) -> list[float]:
    """Each layer's ``activation_sparsity_pattern``: the share of its gates that is to be 0."""
    key = "activation_sparsity_pattern"
    if not config.has(key):
        config.without_effect(key)
        sparse = _SPARSE_LAYERS if layers > _SPARSE_LAYERS else 0
        return [_SPARSITY] * sparse + [0.0] * (layers - sparse)
    found = config.numbers(key, layers)
    if not all(0.0 <= one < 1.0 for one in found):
        raise config.refuse(key, "must be shares of at least 0 and less than 1")
    return found


def _layer(model: _Model, index: int) -> Layer:
    """Attention and LAuReL read the same, and their sum is divided by √2; the layer's input goes to other copies."""

    def norm(role: str, tensor: str) -> Norm:
        return layer_rms_norm(index, role, tensor, model.sizes, epsilon=model.epsilon)

    before = norm("attention_norm", "input_layernorm")
    mlp = gated_mlp(index, model.sizes, model.activation)
    attention = Block(
        norm=before,
        mixer=_attention(model, index),
        post_norm=norm("attention_post_norm", "post_attention_layernorm"),
    )
    laurel = Block(
        norm=before,
        mixer=_laurel(model, index),
        post_norm=norm("laurel_post_norm", "laurel.post_laurel_norm"),
        adds_input=True,
        beside=True,
        stream_multiplier=2.0**-0.5,
    )
    feed_forward = Block(
        norm=norm("mlp_norm", "pre_feedforward_layernorm"),
        mixer=replace(mlp, sparsity=model.sparsities[index]),
        post_norm=norm("mlp_post_norm", "post_feedforward_layernorm"),
    )
    inputs = Block(
        norm=None,
        mixer=_gemma.per_layer_input(index, model.sizes, model.inputs),
        post_norm=norm("per_layer_post_norm", "post_per_layer_input_norm"),
        to_copies=True,
    )
    return Layer((attention, laurel, feed_forward, inputs), altup=_altup(model, index))


def _attention(model: _Model, index: int) -> Mixer:
    kind = model.types[index]
    own = separate_attention(
        index,
        model.sizes,
        scale=1.0,
        qkv_bias=model.bias,
        output_bias=model.bias,
        rope=kind,
        window=model.windows[index],
        norms=query_and_key_norm(index, model.sizes, model.epsilon),
    )
    return model.sharing.attention(index, kind, own, model.epsilon)


def _laurel(model: _Model, index: int) -> Laurel:
    name, tensors, hidden = f"layers.{index}.laurel", f"model.layers.{index}.laurel", model.sizes.hidden
    return Laurel(
        left=linear(f"{name}.left", f"{tensors}.linear_left", model.rank, hidden),
        right=linear(f"{name}.right", f"{tensors}.linear_right", hidden, model.rank),
    )


def _altup(model: _Model, index: int) -> AltUp:
    name, tensors = f"layers.{index}.altup", f"model.layers.{index}.altup"
    copies, hidden = model.copies, model.sizes.hidden

    def mixing(role: str, tensor: str, rows: int, columns: int) -> Linear:
        return Linear(matrix(f"{name}.{role}", "copies", f"{tensors}.{tensor}.weight", rows, columns))

    scale = Weight(f"{name}.output_scale", "norm", (hidden,), (Part(f"{tensors}.correct_output_scale", 0, hidden),))
    return AltUp(
        active=model.active,
        router_norm=layer_rms_norm(index, "altup.router_norm", "altup.router_norm", model.sizes, epsilon=model.epsilon),
        router=mixing("router", "modality_router", copies, hidden),
        prediction=mixing("prediction", "prediction_coefs", copies * copies, copies),
        correction=mixing("correction", "correction_coefs", copies, copies),
        output_scale=scale if model.scales else None,
    )


def _copies(hidden: int, count: int) -> Copies:
    """What makes copies of the stream, in one product, and one stream of them."""
    unembed = "model.altup_unembed_projections"
    begin = tuple(Part(f"model.altup_projections.{index}.weight", 0, hidden) for index in range(count - 1))
    return Copies(
        projection=Linear(Weight("copies.projection", "embedding", ((count - 1) * hidden, hidden), begin)),
        back=tuple(
            Linear(matrix(f"copies.{index + 1}.back", "embedding", f"{unembed}.{index}.weight", hidden, hidden))
            for index in range(count - 1)
        ),
    )


ARCHITECTURE = Architecture(
    model_type="gemma3n_text",
    read=read,
    ignored_tensors=(
        *IGNORED_TENSORS,
        *_gemma.IGNORED_TENSORS,
        r"(model\.)?layers\.\d+\.altup\.correct_output_scale",  # without altup_correct_scale
    ),
    keeps_sizes="copies of the residual stream, keys that layers share, inputs by layer",
)
