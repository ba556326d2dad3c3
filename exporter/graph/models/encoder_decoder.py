"""The two graphs of an encoder-decoder, over one data file.

``encoder.onnx`` reads one whole source, ``input_ids`` (1, source) int64, ``input_features`` (1, bands, frames) or
``input_values`` (1, samples) float32, and gives ``encoder_hidden`` (1, source, hidden) and, for each layer of the
decoder, keys and values of the source (1, heads, source, head_dim): they are projected here, once.

``decoder.onnx`` is as a decoder's alone (:mod:`.decoder`), and reads these keys and values besides. Its rows of a batch
are several targets of the one source, as beam search has them: attention to the source sees them one after the other,
as if they were one sequence, so that nothing of the source is copied for a beam. Of layers with heads that follow what
is being said, what they ask of the source is an output: with the keys, which are the encoder's, it tells when.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.bundle.states import State
from edgepress.exporter.graph.builder import CONTRIB, FLOAT
from edgepress.exporter.graph.primitives import INT64, POSITIONS_ROW, PlannedBuilder
from edgepress.exporter.graph.rotary import write_rotary
from edgepress.exporter.model.encoder_decoders.description import (
    CrossAttention,
    EncoderDecoder,
    RelativeBias,
    SelfAttention,
    Step,
)
from edgepress.exporter.model.mixers import mlp
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Norm, Rope
from edgepress.exporter.plan.plan import Plan
from edgepress.tasks.sequences import QUERIES

HIDDEN = "encoder_hidden"
KEYS_ROW = "keys_row"
"""The value with the position of each key, (total,)."""
_CROSS = "cross_attention"
SOURCES = {"tokens": "input_ids", "mel": "input_features", "wave": "input_values"}
"""The encoder's input by what it reads, named as transformers names it."""


def build_encoder(model: EncoderDecoder, plan: Plan, *, data_file: str, version: str) -> onnx.ModelProto:
    """The encoder's graph, its weights in the regions of ``data_file`` that ``plan`` gives them."""
    g = PlannedBuilder(plan, None, data_file)
    stream = _Stream(g.norm(model.encoder.first_norm, _source(g, model), "encoder.first_norm"))
    for index, steps in enumerate(model.encoder.layers):
        for step in steps:
            stream = _step(g, step, stream, f"encoder.layers.{index}", ())
    hidden, _ = g.norm_of_sum(model.encoder.last_norm, stream.x, stream.pending, "encoder.last_norm")
    length: int | str = model.source_length if model.fixed_source else "source"
    g.output(g.node("Identity", [hidden], HIDDEN), FLOAT, [1, length, model.hidden_size])
    for index, steps in enumerate(model.decoder.layers):
        for step in steps:
            if isinstance(step.mixer, CrossAttention):
                _encode(g, step.mixer, hidden, _states(plan, index, step))
    return g.model(f"{model.model_type} encoder", version)


def build_target(model: EncoderDecoder, plan: Plan, *, data_file: str, version: str) -> onnx.ModelProto:
    """The decoder's graph, its weights in the same file."""
    g = PlannedBuilder(plan, model.embedding if model.tied else None, data_file)
    g.token_inputs(model.vocab_size)
    x = _scaled(g, g.rows(model.embedding, "embedded"), model.embedding_multiplier)
    places = g.position_ids()
    if model.decoder.positions is not None:
        added = g.node("Gather", [g.weight(model.decoder.positions), places], "positions_embedded")
        x = g.node("Add", [x, added], "embedded.positioned")
    stream = _Stream(g.norm(model.decoder.first_norm, x, "decoder.first_norm"))
    for index, steps in enumerate(model.decoder.layers):
        for step in steps:
            stream = _step(g, step, stream, f"layers.{index}", _states(plan, index, step))
            if isinstance(step.mixer, CrossAttention) and index in {layer for layer, _ in model.alignment}:
                width = step.mixer.heads * step.mixer.head_dim
                asked = g.node("Identity", [_queries(f"layers.{index}.{_CROSS}")], QUERIES.format(layer=index))
                g.output(asked, FLOAT, [1, "asked", width])
    hidden, _ = g.norm_of_sum(model.decoder.last_norm, stream.x, stream.pending, "decoder.last_norm")
    g.linear(model.head, _scaled(g, g.trim(hidden), model.head_multiplier), output="logits")
    return g.model(f"{model.model_type} decoder", version)


@dataclass(frozen=True)
class _Stream:
    """The residual stream: its value is ``x``, plus ``pending`` which the next norm adds on its way (fused)."""

    x: str
    pending: str | None = None


def _states(plan: Plan, index: int, step: Step) -> tuple[State, ...]:
    """The states of a step of the decoder's layer ``index``."""
    encoded = "encoded_" if isinstance(step.mixer, CrossAttention) else ""
    names = [f"layers.{index}.{encoded}{part}" for part in ("key", "value")]
    return () if isinstance(step.mixer, MLP) else tuple(plan.state(name) for name in names)


def _scaled(g: PlannedBuilder, x: str, factor: float) -> str:
    """Multiply by a constant that is named after x; nothing to do for 1."""
    if factor == 1.0:
        return x
    return g.node("Mul", [x, g.constant(f"{x}.multiplier", np.array(factor, np.float32))], f"{x}.scaled")


# ---- the source -----------------------------------------------------------------------------------------------------


def _source(g: PlannedBuilder, model: EncoderDecoder) -> str:
    """What the encoder's layers read: (1, source, hidden)."""
    if model.source_embedding is not None:
        g.input(SOURCES["tokens"], INT64, [1, "source"])
        x = _scaled(g, g.rows(model.source_embedding, "embedded"), model.embedding_multiplier)
    else:
        x = _convolved(g, model)
    if model.encoder.positions is None:
        return x
    table = g.weight(model.encoder.positions)
    if not model.fixed_source:
        table = g.node("Gather", [table, _places(g, x)], "encoder.positions_of_source")
    return g.node("Add", [x, table], "encoder.positioned")


def _places(g: PlannedBuilder, x: str) -> str:
    """0, 1, … for each position of x (1, source, …), once: (source,)."""
    if not g.has_value("encoder.places"):
        zero, one = (g.constant(f"encoder.{n}", np.array(n, np.int64)) for n in (0, 1))
        length = g.node("Squeeze", [g.node("Shape", [x], "encoder.shape", start=1, end=2)], "encoder.length")
        g.node("Range", [zero, length, one], "encoder.places")
    return "encoder.places"


def _convolved(g: PlannedBuilder, model: EncoderDecoder) -> str:
    """Sound through convolutions over time, (1, source, hidden).

    ::

        (1, channels, time) ─ Conv ─ Gelu or Tanh ─ (norm) ─ … ─ Transpose
    """
    if model.source == "mel":
        stride = math.prod(convolution.stride for convolution in model.convolutions)
        x = g.input(SOURCES["mel"], FLOAT, [1, model.bands, stride * model.source_length])
    else:
        wave = g.input(SOURCES["wave"], FLOAT, [1, "samples"])
        x = g.node("Unsqueeze", [wave, g.constant("axis_1", np.array([1], np.int64))], "wave")
    for convolution in model.convolutions:
        name = convolution.kernel.name
        inputs = [x, g.weight(convolution.kernel), *([g.weight(convolution.bias)] if convolution.bias else [])]
        taps, pads = convolution.kernel.shape[2], [convolution.padding] * 2
        x = g.node("Conv", inputs, f"{name}.y", kernel_shape=[taps], strides=[convolution.stride], pads=pads)
        if convolution.activation == "gelu":
            x = g.node("Gelu", [x], f"{name}.activated", approximate="none")
        else:
            x = g.node("Tanh", [x], f"{name}.activated")
        if convolution.norm is not None:
            x = _group_norm(g, convolution.norm, x, f"{name}.norm")
    return g.node("Transpose", [x], "sound", perm=[0, 2, 1])


def _group_norm(g: PlannedBuilder, norm: Norm, x: str, name: str) -> str:
    """Mean and deviation over channels and time together, gain and bias by channel.

    ::

        x (1, channels, time) ─ Reshape (1, 1, ·) ─ InstanceNormalization ─ Reshape ─ Mul gain ─ Add bias
    """
    channels = norm.weight.shape[0]
    one, zero = (g.constant(f"{name}.{n}", np.array([n], np.float32)) for n in (1, 0))
    flat = g.node("Reshape", [x, g.constant("one_channel", np.array([1, 1, -1], np.int64))], f"{name}.flat")
    y = g.node("InstanceNormalization", [flat, one, zero], f"{name}.normed", epsilon=norm.epsilon)
    back = g.constant(f"{name}.shape", np.array([1, channels, -1], np.int64))
    y = g.node("Reshape", [y, back], f"{name}.back")
    column = g.constant(f"{name}.column", np.array([channels, 1], np.int64))
    for op, weight in (("Mul", norm.weight), ("Add", norm.bias)):
        if weight is not None:
            y = g.node(op, [y, g.node("Reshape", [g.weight(weight), column], f"{weight.name}.column")], f"{name}.{op}")
    return y


# ---- layers ---------------------------------------------------------------------------------------------------------


def _step(g: PlannedBuilder, step: Step, stream: _Stream, name: str, states: Sequence[State]) -> _Stream:
    """The stream after ``after(x + mixer(before(x)))``; ``states`` are there in the decoder alone."""
    mixer = step.mixer
    role = {SelfAttention: "attention", CrossAttention: _CROSS}.get(type(mixer), "mlp")
    hidden, x = g.norm_of_sum(step.before, stream.x, stream.pending, f"{name}.{role}_norm")
    if isinstance(mixer, MLP):
        y = g.linear(mixer.down, mlp.write(mixer, g, f"{name}.mlp", hidden, ()), normed=False)
    elif isinstance(mixer, CrossAttention):
        y = g.linear(mixer.output, _attend_source(g, mixer, f"{name}.{role}", hidden, states))
    elif states:
        y = g.linear(mixer.output, _attend_text(g, mixer, f"{name}.{role}", hidden, states))
    else:
        y = g.linear(mixer.output, _attend_all(g, mixer, f"{name}.{role}", hidden))
    if step.after is None:
        return _Stream(x, y)
    return _Stream(g.norm_of_sum(step.after, x, y, f"{name}.{role}_after")[0])


def _split(g: PlannedBuilder, a: SelfAttention, hidden: str, name: str) -> list[str]:
    """Q, k and v, (batch, sequence, heads · head_dim) each."""
    width = a.heads * a.head_dim
    sizes = g.constant(f"three_{width}", np.array([width] * 3, np.int64))
    q, k, v = (f"{name}.{part}" for part in "qkv")
    g.node("Split", [g.linear(a.qkv, hidden), sizes], q, more_outputs=[k, v], axis=-1)
    return [q, k, v]


def _attend_all(g: PlannedBuilder, a: SelfAttention, name: str, hidden: str) -> str:
    """Attention in which every position sees every other, (1, source, heads · head_dim)."""
    q, k, v = _split(g, a, hidden, name)
    if a.rope is not None:
        q, k = (_rotated(g, a, x, _tables_of_source(g, a.rope, hidden)) for x in (q, k))
    bias = [] if a.bias is None else ["", "", _distances(g, a.bias, _places(g, hidden), "encoder.places", causal=False)]
    inputs = [q, k, v, *bias]
    return g.node("MultiHeadAttention", inputs, f"{name}.y", domain=CONTRIB, num_heads=a.heads, scale=a.scale)


def _attend_text(g: PlannedBuilder, a: SelfAttention, name: str, hidden: str, states: Sequence[State]) -> str:
    """Attention to the tokens so far, whose keys and values are kept; heads are padded where the operator asks for it.

    ::

        hidden ─ qkv ─ (Split ─ rotate q, k ─ pad) ─┬ GroupQueryAttention ┬ (cut) ─
        past_key_values.{i}.key, .value ────────────┘                     └ present.{i}.key, .value
    """
    pads = a.kept_dim - a.head_dim
    if a.rope is None and not pads:
        qkv = [g.linear(a.qkv, hidden), "", ""]
    else:
        q, k, v = _split(g, a, hidden, name)
        if a.rope is not None:
            q, k = (_rotated(g, a, x, write_rotary(g, "default", a.rope)) for x in (q, k))
        qkv = [_padded(g, a, x, pads) for x in (q, k, v)] if pads else [q, k, v]
    past, present = zip(*(g.state(state) for state in states), strict=True)
    bias = [] if a.bias is None else ["", "", "", _distances(g, a.bias, POSITIONS_ROW, _keys(g), causal=True)]
    y = g.node(
        "GroupQueryAttention",
        [*qkv, *past, "seqlens_k", "total_length", *bias],
        f"{name}.y",
        domain=CONTRIB,
        more_outputs=present,
        num_heads=a.heads,
        kv_num_heads=a.heads,
        scale=a.scale,
    )
    return _cut(g, a, y) if pads else y


def _keys(g: PlannedBuilder) -> str:
    """0 … total − 1, once: (total,)."""
    if not g.has_value(KEYS_ROW):
        zero, one = (g.constant(f"key_{n}", np.array(n, np.int64)) for n in (0, 1))
        g.node("Range", [zero, "total", one], KEYS_ROW)
    return KEYS_ROW


def _by_head(g: PlannedBuilder, a: SelfAttention, x: str) -> str:
    shape = g.constant(f"by_{a.heads}_heads", np.array([0, 0, a.heads, -1], np.int64))
    return g.node("Reshape", [x, shape], f"{x}.by_head")


def _padded(g: PlannedBuilder, a: SelfAttention, x: str, pads: int) -> str:
    """Zeros behind the numbers of each head, which change no score and no sum."""
    ends = g.constant(f"pads_{pads}", np.array([0] * 7 + [pads], np.int64))
    flat = g.constant(f"flat_{a.heads * a.kept_dim}", np.array([0, 0, a.heads * a.kept_dim], np.int64))
    return g.node("Reshape", [g.node("Pad", [_by_head(g, a, x), ends], f"{x}.padded"), flat], f"{x}.wide")


def _cut(g: PlannedBuilder, a: SelfAttention, x: str) -> str:
    """What :func:`_padded` added, away again."""
    bounds = [g.constant(f"slice_{n}", np.array([n], np.int64)) for n in (0, a.head_dim, 3)]
    flat = g.constant(f"flat_{a.heads * a.head_dim}", np.array([0, 0, a.heads * a.head_dim], np.int64))
    return g.node("Reshape", [g.node("Slice", [_by_head(g, a, x), *bounds], f"{x}.cut"), flat], f"{x}.narrow")


def _rotated(g: PlannedBuilder, a: SelfAttention, x: str, tables: tuple[str, str, str]) -> str:
    """Queries or keys (batch, sequence, heads · head_dim) turned by rotary embedding.

    ``tables`` are cos, sin and the row of each token.
    """
    if a.rope is None:
        raise ValueError("attention without a rope is not rotated")
    turned = 2 * len(a.rope.inverse_frequencies)
    cos, sin, rows = tables
    return g.node(
        "RotaryEmbedding",
        [x, rows, cos, sin],
        f"{x}.rotated",
        domain=CONTRIB,
        num_heads=a.heads,
        rotary_embedding_dim=turned if turned < a.head_dim else 0,
        interleaved=int(a.rope.interleaved),
    )


def _tables_of_source(g: PlannedBuilder, rope: Rope, x: str) -> tuple[str, str, str]:
    """Cos and sin of each position of the source, and the row of each, once.

    ::

        places ─ Cast ─ Unsqueeze ─ Mul(frequencies) ┬ Cos
                                                     └ Sin
    """
    names = ("encoder.cos", "encoder.sin", "encoder.rows")
    if not g.has_value(names[0]):
        first, last = (g.constant(f"axis_{axis}", np.array([axis], np.int64)) for axis in (0, 1))
        places = _places(g, x)
        g.node("Unsqueeze", [places, first], names[2])
        column = g.node("Unsqueeze", [g.node("Cast", [places], "encoder.floats", to=FLOAT), last], "encoder.column")
        angles = g.node("Mul", [column, g.constant("encoder.frequencies", _row(rope))], "encoder.angles")
        for name, function in zip(names, ("Cos", "Sin"), strict=False):
            g.node(function, [angles], name)
    return names


def _row(rope: Rope) -> NDArray[np.float32]:
    return np.array(rope.inverse_frequencies, np.float32)[None]


def _distances(g: PlannedBuilder, bias: RelativeBias, queries: str, keys: str, *, causal: bool) -> str:
    """What distances add to scores, (1, heads, queries, keys), once for each table.

    ::

        queries − keys ─ Clip(± longest) ─ (Add longest) ─┐
        table ─ Gather(buckets) ─ Transpose (heads, distances) ┴ Gather ─ Unsqueeze

    What is known when the graph is opened, onnxruntime computes then: the second line up to its last Gather.
    """
    name = f"{bias.table.name}.bias"
    if g.has_value(name):
        return name
    buckets = g.constant(f"{bias.table.name}.buckets", bias.buckets(causal=causal))
    rows = g.node("Gather", [g.weight(bias.table), buckets], f"{name}.rows")
    by_head = g.node("Transpose", [rows], f"{name}.by_head", perm=[1, 0])
    column = g.node("Unsqueeze", [queries, g.constant("axis_1", np.array([1], np.int64))], f"{name}.queries")
    low, high = (
        g.constant(f"{name}.{n}", np.array(n, np.int64)) for n in (0 if causal else -bias.longest, bias.longest)
    )
    places = g.node("Clip", [g.node("Sub", [column, keys], f"{name}.distances"), low, high], f"{name}.clipped")
    if not causal:
        places = g.node("Add", [places, high], f"{name}.places")
    found = g.node("Gather", [by_head, places], f"{name}.found", axis=1)  # (heads, queries, keys)
    return g.node("Unsqueeze", [found, g.constant("axis_0", np.array([0], np.int64))], name)


# ---- the source, as the decoder sees it -----------------------------------------------------------------------------


def _encode(g: PlannedBuilder, a: CrossAttention, hidden: str, states: Sequence[State]) -> None:
    """Keys and values of the source for one layer: projected, heads first."""
    shape = g.constant(f"by_{a.heads}_heads", np.array([0, 0, a.heads, -1], np.int64))
    for linear, state in zip((a.key, a.value), states, strict=True):
        y = g.node("Reshape", [g.linear(linear, hidden), shape], f"{state.output}.by_head")
        g.node("Transpose", [y], state.output, perm=[0, 2, 1, 3])
        g.output(state.output, FLOAT, state.shape)


def _queries(name: str) -> str:
    return f"{name}.queries"


def _attend_source(g: PlannedBuilder, a: CrossAttention, name: str, hidden: str, states: Sequence[State]) -> str:
    """Attention of all targets to the one source.

    ::

        hidden (batch, sequence, ·) ─ query ─ Reshape (1, batch · sequence, ·) ┬ MultiHeadAttention ─ Reshape back
        encoded.{i}.key, .value ───────────────────────────────────────────────┘
    """
    width = a.heads * a.head_dim
    one = g.constant(f"one_sequence_{width}", np.array([1, -1, width], np.int64))
    query = g.node("Reshape", [g.linear(a.query, hidden), one], _queries(name))
    keys_values = [g.input(state.input, FLOAT, state.shape) for state in states]
    inputs = [query, *keys_values]
    y = g.node("MultiHeadAttention", inputs, f"{name}.together", domain=CONTRIB, num_heads=a.heads, scale=a.scale)
    back = f"as_ids_of_{width}"
    if not g.has_value(back):
        g.node("Concat", ["ids_shape", g.constant(f"width_{width}", np.array([width], np.int64))], back, axis=0)
    return g.node("Reshape", [y, back], f"{name}.y")
