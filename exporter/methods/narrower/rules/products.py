"""Products with weights: one axis of a weight is summed over and follows what comes in, the other is what goes out."""

import math

import numpy as np
import onnx

from edgepress.exporter.methods.narrower.trace import (
    Axis,
    Cutting,
    Labels,
    OpaqueError,
    Rules,
    Trace,
    merged,
    node_name,
)
from edgepress.onnx_graph.walk import attribute, attributes_of, operand

CHANNELS = "channels"
"""The tag of what a convolution reads or makes."""


def _plain(trace: Trace, node: onnx.NodeProto) -> Axis:
    """The channels that a convolution reads; its other axes have no labels."""
    axes = trace.of(node.input[0])
    if any(axis is not None for place, axis in enumerate(axes) if place != 1):
        raise OpaqueError(f"{node_name(node)} moves over channels")
    return axes[1]


def _of_groups(trace: Trace, leaders: Labels) -> None:
    """Have the attribute ``group`` follow how many groups stay."""

    def repair(cutting: Cutting, node: onnx.NodeProto) -> None:
        cutting.set_attribute(node, "group", int(cutting.kept(leaders).sum()))

    trace.repair(repair)


def convolution(trace: Trace, node: onnx.NodeProto) -> None:
    """Conv: weight (out, in / groups, …).

    Where a group is small (as in a depthwise convolution) whole groups go; where there are few groups, the same
    channels of each.
    """
    x, weight, groups = _plain(trace, node), operand(node, 1), int(attribute(node, "group", 1))
    rows, columns = trace.of(weight)[:2]
    dims = trace.shape(weight)
    if (
        dims[0] is None
        or dims[1] is None
        or any(axis is not None and not trace.is_constant(weight) for axis in (rows,))
    ):
        raise OpaqueError(f"{node_name(node)} has a weight that is computed")
    spatial = math.prod(size or 1 for size in (*trace.shape(node.output[0])[2:], *dims[2:]))
    why = f"{node_name(node)} reads what is not cut"
    if groups == 1:
        trace.join(x, columns, why)
        trace.reads(weight, 1)
        trace.works(node, spatial, (dims[0], rows), (dims[1], columns))
    elif dims[1] <= groups:
        trace.fix(columns, f"{node_name(node)} has groups of {dims[1]}")
        blocks = None if rows is None else trace.join_rows(rows.reshape(groups, -1))
        inside = None if x is None else trace.join_rows(x.reshape(groups, -1))
        leaders = trace.join(blocks, inside, why)
        if leaders is not None:
            _of_groups(trace, leaders)
        trace.works(node, spatial, (dims[0], rows), dims[1])
    else:
        if rows is not None:
            trace.join_rows(rows.reshape(groups, -1).T)
        trace.join(None if x is None else trace.join_rows(x.reshape(groups, -1).T), columns, why)
        trace.reads(weight, 1)
        trace.works(node, spatial, (dims[0], rows), (dims[1], columns))
    trace.tag(x, CHANNELS)
    trace.tag(rows, CHANNELS)
    if operand(node, 2):
        trace.join(rows, trace.of(node.input[2])[0], f"{node_name(node)} has a bias that is not cut")
    trace.give(node, (None, rows, *(None for _ in dims[2:])))


def transposed_convolution(trace: Trace, node: onnx.NodeProto) -> None:
    """ConvTranspose: weight (in, out / groups, …)."""
    x, weight, groups = _plain(trace, node), operand(node, 1), int(attribute(node, "group", 1))
    columns, rows = trace.of(weight)[:2]
    dims = trace.shape(weight)
    if dims[0] is None or dims[1] is None or not trace.is_constant(weight):
        raise OpaqueError(f"{node_name(node)} has a weight that is computed")
    spatial = math.prod(size or 1 for size in (*trace.shape(node.input[0])[2:], *dims[2:]))
    why = f"{node_name(node)} reads what is not cut"
    made: Axis
    if groups == 1:
        trace.join(x, columns, why)
        trace.reads(weight, 0)
        made = rows
    elif dims[0] // groups <= groups:
        trace.fix(rows, f"{node_name(node)} has groups of {dims[1]}")
        inside = None if x is None else trace.join_rows(x.reshape(groups, -1))
        blocks = None if columns is None else trace.join_rows(columns.reshape(groups, -1))
        leaders = trace.join(blocks, inside, why)
        if leaders is not None:
            _of_groups(trace, leaders)
        made = None if leaders is None else np.repeat(leaders, dims[1])
        rows = None
    else:
        if columns is not None:
            trace.join_rows(columns.reshape(groups, -1).T)
        trace.join(x, columns, why)
        trace.reads(weight, 0)
        made = None if rows is None else np.tile(rows, groups)
    trace.works(node, spatial, (dims[0], columns), (dims[1], rows))
    trace.tag(x, CHANNELS)
    trace.tag(made, CHANNELS)
    if operand(node, 2):
        trace.join(made, trace.of(node.input[2])[0], f"{node_name(node)} has a bias that is not cut")
    trace.give(node, (None, made, *(None for _ in dims[2:])))


def _summed(trace: Trace, node: onnx.NodeProto, first: str, second: str, axes: tuple[Axis, Axis]) -> None:
    """Join the axes that a product sums over; of two computed values neither can do without a channel alone."""
    if trace.is_constant(first) or trace.is_constant(second):
        trace.join(*axes, f"{node_name(node)} reads what is not cut")
        return
    trace.fix_all(axes, f"{node_name(node)} sums products of computed values over it")


def gemm(trace: Trace, node: onnx.NodeProto) -> None:
    """Gemm: (m, k) · (k, n) + c, each factor transposed or not."""
    a, b = node.input[:2]
    turned = [bool(attribute(node, name, 0)) for name in ("transA", "transB")]
    m, k = trace.of(a)[::-1] if turned[0] else trace.of(a)
    k_too, n = trace.of(b)[::-1] if turned[1] else trace.of(b)
    _summed(trace, node, a, b, (k, k_too))
    trace.reads(a, 0 if turned[0] else 1)
    trace.reads(b, 1 if turned[1] else 0)
    sizes = trace.shape(b)[::-1] if turned[1] else trace.shape(b)
    trace.works(node, (trace.shape(node.output[0])[0], m), (sizes[0], k), (sizes[1], n))
    trace.axes[node.output[0]] = (m, n)
    if operand(node, 2):
        m, n = merged(trace, node, [node.output[0], node.input[2]], trace.shape(node.output[0]))
    trace.give(node, (m, n))


def matmul(trace: Trace, node: onnx.NodeProto) -> None:
    """MatMul: (…, m, k) · (…, k, n), the axes before them broadcast."""
    a, b = node.input[:2]
    shapes = trace.shape(a), trace.shape(b)
    if min(map(len, shapes)) < 2:
        raise OpaqueError(f"{node_name(node)} multiplies by a vector")
    first, second = trace.of(a), trace.of(b)
    _summed(trace, node, a, b, (first[-1], second[-2]))
    trace.reads(a, -1)
    trace.reads(b, -2)
    batch: list[Axis] = []
    rank = max(map(len, shapes))
    for place in range(-rank, -2):
        both = zip((first, second), shapes, strict=True)
        here = [axes[place] for axes, dims in both if -place <= len(dims) and dims[place] != 1]
        axis = here[0] if here else None
        if len(here) == 2:
            axis = trace.join(here[0], here[1], f"{node_name(node)} multiplies by what is not cut")
        batch.append(axis)
    out = trace.shape(node.output[0])
    axes = (*batch, first[-2], second[-1])
    k = shapes[0][-1] if shapes[0][-1] is not None else shapes[1][-2]
    trace.works(node, (k, first[-1]), *zip(out, axes, strict=True))
    trace.give(node, axes)


def einsum(trace: Trace, node: onnx.NodeProto) -> None:
    """Einsum of letters, without dots: a letter is one axis wherever it stands."""
    text = str(attribute(node, "equation", "")).replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if not arrow or "." in text or any(len(set(term)) != len(term) for term in (*terms, right)):
        raise OpaqueError(f"{node_name(node)} computes {text!r}")
    found: dict[str, list[tuple[str, int, Axis, int | None]]] = {}
    for name, term in zip(node.input, terms, strict=True):
        for place, (letter, axis, size) in enumerate(zip(term, trace.of(name), trace.shape(name), strict=True)):
            found.setdefault(letter, []).append((name, place, axis, size))
    axes: dict[str, Axis] = {}
    for letter, places in found.items():
        axes[letter] = places[0][2]
        for _, _, other, _ in places[1:]:
            axes[letter] = trace.join(axes[letter], other, f"{node_name(node)} reads what is not cut")
        if letter not in right:
            if not any(trace.is_constant(name) for name, *_ in places):
                trace.fix(axes[letter], f"{node_name(node)} sums over it")
            for name, place, *_ in places:
                trace.reads(name, place)
    trace.works(node, *((places[0][3], axes[letter]) for letter, places in found.items()))
    trace.give(node, [axes[letter] for letter in right])


_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = "states"
"""The tag of the hidden values of a recurrent layer."""


def recurrent(trace: Trace, node: onnx.NodeProto) -> None:
    """LSTM, GRU, RNN: W (directions, gates · hidden, in), R (directions, gates · hidden, hidden), B, states, P.

    All directions keep the same hidden values: they have one size.
    """
    gates, settings = _GATES[node.op_type], attributes_of(node)
    if settings.get("layout", 0):
        raise OpaqueError(f"{node_name(node)} has the batch first")
    w, r = operand(node, 1), operand(node, 2)
    if not trace.is_constant(w) or not trace.is_constant(r):
        raise OpaqueError(f"{node_name(node)} has weights that are computed")
    dims = trace.shape(r)
    directions, hidden = int(dims[0] or 0), int(dims[2] or 0)
    x, inside = trace.of(node.input[0])[2], trace.of(w)[2]
    trace.join(x, inside, f"{node_name(node)} reads what is not cut")
    trace.reads(w, 2)
    trace.reads(r, 2)
    labels: Axis = trace.of(r)[2]
    for name, place, times in (
        (w, 1, gates),
        (r, 1, gates),
        (operand(node, 3), 1, 2 * gates),
        *((operand(node, index), 2, 1) for index in (5, 6)),
        (operand(node, 7), 1, 3),
    ):
        if name and labels is not None:
            trace.join(np.tile(labels, times), trace.of(name)[place], f"{node_name(node)} begins with what is not cut")
    time = trace.shape(node.output[0] or node.output[1])[0] if node.output[0] else 1
    trace.works(node, time, directions, gates, (trace.shape(w)[2], inside), (hidden, labels))
    trace.works(node, time, directions, gates, (hidden, labels), (hidden, labels))
    trace.tag(labels, STATES)
    for weight in (w, r):  # directions are no channels
        trace.fix(trace.of(weight)[0], f"{node_name(node)} runs in {directions} directions")

    def repair(cutting: Cutting, node: onnx.NodeProto) -> None:
        if labels is not None:
            cutting.set_attribute(node, "hidden_size", int(cutting.kept(labels).sum()))

    trace.repair(repair)
    trace.give(node, (None, None, None, labels))
    for output in (1, 2):
        trace.give(node, (None, None, labels), output)


RULES: Rules = {
    ("", "Conv"): convolution,
    ("", "ConvTranspose"): transposed_convolution,
    ("", "Gemm"): gemm,
    ("", "MatMul"): matmul,
    ("", "Einsum"): einsum,
    **{("", name): recurrent for name in _GATES},
}
