"""Moving values: transposed, joined, split, padded, reshaped, resized. What counts channels follows them."""

import math
from collections.abc import Sequence

import numpy as np
import onnx

from edgepress.exporter.methods.narrower.rules.attention import HEADS, goes_into_attention
from edgepress.exporter.methods.narrower.trace import (
    Axes,
    Axis,
    Cutting,
    Labels,
    OpaqueError,
    Rules,
    Trace,
    axis_of,
    follow,
    integers,
    node_name,
)
from edgepress.onnx_graph.walk import attribute, operand

CUT_OUT = "cut out"
"""The tag of channels of which a range goes on."""

_MOST = 1 << 24  # labels of a block that is reshaped

Dims = Sequence[int | None]


def transpose(trace: Trace, node: onnx.NodeProto) -> None:
    """Axes in another order."""
    axes = trace.of(node.input[0])
    order = attribute(node, "perm", list(reversed(range(len(axes)))))
    trace.give(node, [axes[place] for place in order])


def concat(trace: Trace, node: onnx.NodeProto) -> None:
    """Labels one after the other along the axis, joined along others."""
    shape = trace.shape(node.output[0])
    place = axis_of(node, 0, len(shape))
    axes: list[Axis] = []
    for index in range(len(shape)):
        if index != place:
            axis = trace.of(node.input[0])[index]
            for name in node.input[1:]:
                axis = trace.join(axis, trace.of(name)[index], f"{node_name(node)} joins it with what is not cut")
            axes.append(axis)
            continue
        parts = [trace.of(name)[place] for name in node.input]
        sizes = [trace.shape(name)[place] for name in node.input]
        if all(part is None for part in parts):
            axes.append(None)
            continue
        if None in sizes:
            raise OpaqueError(f"{node_name(node)} joins parts whose sizes are not known")
        filled: list[Labels] = []
        for part, size in zip(parts, sizes, strict=True):
            own = trace.fresh(int(size or 0)) if part is None else part
            if part is None:
                trace.fix(own, f"{node_name(node)} joins it")
            filled.append(own)
            trace.keeps_some(own, node_name(node))
        axes.append(np.concatenate(filled))
    trace.give(node, axes)


def split(trace: Trace, node: onnx.NodeProto) -> None:
    """Pieces of the labels; sizes follow what stays of each."""
    axes = list(trace.of(node.input[0]))
    place = axis_of(node, 0, len(axes))
    labels = axes[place]
    if labels is None:
        for index in range(len(node.output)):
            trace.give(node, axes, index)
        return
    sizes = integers(trace, node, 1, "split")
    if sizes is None:
        if operand(node, 1):
            raise OpaqueError(f"{node_name(node)} splits into sizes that are computed")
        count = len(node.output)
        size = -(-len(labels) // count)
        sizes = [min(size, len(labels) - size * index) for index in range(count)]
    pieces = np.split(labels, np.cumsum(sizes)[:-1])
    as_input = trace.version >= 13
    for index, piece in enumerate(pieces):
        trace.keeps_some(piece, node_name(node))
        trace.give(node, [*axes[:place], piece, *axes[place + 1 :]], index)

    def repair(cutting: Cutting, node: onnx.NodeProto) -> None:
        left = [int(cutting.kept(piece).sum()) for piece in pieces]
        if not as_input:
            cutting.set_attribute(node, "split", left)
            return
        cutting.set_attribute(node, "num_outputs", None)
        cutting.set_input(node, 1, np.array(left, np.int64))

    trace.repair(repair)


def cut_out(trace: Trace, node: onnx.NodeProto) -> None:
    """Slice: a range of labels; its ends move to where the same channels then are."""
    axes = list(trace.of(node.input[0]))
    starts, ends = (integers(trace, node, index) for index in (1, 2))
    if starts is None or ends is None:
        raise OpaqueError(f"{node_name(node)} cuts out what is computed")
    places = integers(trace, node, 3) or list(range(len(starts)))
    steps = integers(trace, node, 4) or [1] * len(starts)
    if operand(node, 3) and integers(trace, node, 3) is None:
        raise OpaqueError(f"{node_name(node)} cuts along axes that are computed")
    moved: list[tuple[int, Labels, int, int]] = []  # position in starts, labels, first, end
    for position, (place, start, end, step) in enumerate(zip(places, starts, ends, steps, strict=True)):
        labels = axes[place % len(axes)]
        if labels is None:
            continue
        if step != 1:
            trace.fix(labels, f"{node_name(node)} takes every {step}. of them")
            axes[place % len(axes)] = None
            continue
        first, last, _ = slice(start, end).indices(len(labels))
        axes[place % len(axes)] = labels[first:last]
        trace.keeps_some(labels[first:last], node_name(node))
        trace.tag(labels, CUT_OUT)
        moved.append((position, labels, first, last))
    if moved:

        def repair(cutting: Cutting, node: onnx.NodeProto) -> None:
            new_starts, new_ends = list(starts), list(ends)
            for position, labels, first, last in moved:
                kept = cutting.kept(labels)
                new_starts[position], new_ends[position] = int(kept[:first].sum()), int(kept[:last].sum())
            cutting.set_input(node, 1, np.array(new_starts, np.int64))
            cutting.set_input(node, 2, np.array(new_ends, np.int64))

        trace.repair(repair)
    trace.give(node, axes)


def gather(trace: Trace, node: onnx.NodeProto) -> None:
    """Gather: indices along an axis of channels follow them where they are constant; other axes stay as they are."""
    axes = trace.of(node.input[0])
    place = axis_of(node, 0, len(axes))
    labels, indices = axes[place], trace.array(operand(node, 1))
    middle: tuple[Axis, ...] = (None,) * len(trace.shape(node.input[1]))
    if labels is not None and indices is not None and indices.ndim == 1:
        picked = np.ascontiguousarray(labels[indices])
        middle = (picked,)
        trace.keeps_some(picked, node_name(node))
        trace.tag(labels, CUT_OUT)

        def repair(cutting: Cutting, node: onnx.NodeProto) -> None:
            kept = cutting.kept(labels)
            position = np.cumsum(kept) - 1  # where a channel that stays is then
            wanted = (indices % len(labels))[kept[indices % len(labels)]]
            cutting.set_input(node, 1, position[wanted].astype(np.int64))

        trace.repair(repair)
    else:
        trace.fix(labels, f"{node_name(node)} looks entries up in it")
    trace.give(node, (*axes[:place], *middle, *axes[place + 1 :]))


def pad(trace: Trace, node: onnx.NodeProto) -> None:
    """Pad: what is put before and after channels are channels too (the shortcut of He et al. 2016, option A)."""
    axes = list(trace.of(node.input[0]))
    pads = integers(trace, node, 1, "pads")
    places = integers(trace, node, 3) or list(range(len(axes)))
    if pads is None or (operand(node, 3) and integers(trace, node, 3) is None):
        raise OpaqueError(f"{node_name(node)} pads by what is computed")
    added: list[tuple[int, Labels, Labels]] = []
    for position, place in enumerate(places):
        labels = axes[place % len(axes)]
        before, after = pads[position], pads[position + len(places)]
        if labels is None or not (before or after):
            continue
        if min(before, after) < 0 or attribute(node, "mode", "constant") != "constant":
            trace.fix(labels, f"{node_name(node)} pads it by its own values")
            axes[place % len(axes)] = None
            continue
        ends = trace.fresh(before), trace.fresh(after)
        axes[place % len(axes)] = np.concatenate([ends[0], labels, ends[1]])
        added.append((position, *ends))
    if added:

        def repair(cutting: Cutting, node: onnx.NodeProto) -> None:
            left = list(pads)
            for position, before, after in added:
                left[position] = int(cutting.kept(before).sum())
                left[position + len(places)] = int(cutting.kept(after).sum())
            if operand(node, 1):
                cutting.set_input(node, 1, np.array(left, np.int64))
            else:
                cutting.set_attribute(node, "pads", left)

        trace.repair(repair)
    trace.give(node, axes)


def pool(trace: Trace, node: onnx.NodeProto) -> None:
    """Pooling: channels stay, (n, channels, …)."""
    axes = trace.of(node.input[0])
    if any(axis is not None for axis in axes[2:]):
        raise OpaqueError(f"{node_name(node)} pools over channels")
    trace.give(node, axes)


def resize(trace: Trace, node: onnx.NodeProto) -> None:
    """Resize and Upsample: by factors, or to sizes, of which those of channels follow."""
    axes = trace.of(node.input[0])
    out, into = trace.shape(node.output[0]), trace.shape(node.input[0])
    cut = [place for place, axis in enumerate(axes) if axis is not None]
    if any(out[place] != into[place] for place in cut):
        raise OpaqueError(f"{node_name(node)} resizes channels")
    if operand(node, 3) and not attribute(node, "axes"):
        follow(trace, node, 3, axes)
    trace.give(node, axes)


def expand(trace: Trace, node: onnx.NodeProto) -> None:
    """Expand: along channels to 1, which leaves them as many as they are."""
    axes, shape = trace.of(node.input[0]), trace.shape(node.output[0])
    new: Axes = (*(None,) * (len(shape) - len(axes)), *axes)
    follow(trace, node, 1, new, size=1)
    trace.give(node, new)


def tile(trace: Trace, node: onnx.NodeProto) -> None:
    """Tile: labels again and again."""
    repeats = integers(trace, node, 1)
    if repeats is None:
        raise OpaqueError(f"{node_name(node)} repeats as often as is computed")
    axes = trace.of(node.input[0])
    trace.give(
        node, [None if axis is None else np.tile(axis, times) for axis, times in zip(axes, repeats, strict=True)]
    )


def depth_to_space(trace: Trace, node: onnx.NodeProto) -> None:
    """DepthToSpace: all that become one channel go together."""
    labels, block = trace.of(node.input[0])[1], int(attribute(node, "blocksize")) ** 2
    if labels is None:
        return
    columns = attribute(node, "mode", "DCR") == "CRD"
    rows = labels.reshape(-1, block) if columns else labels.reshape(block, -1).T  # (channels out, block²)
    trace.give(node, (None, trace.join_rows(rows), None, None))


def space_to_depth(trace: Trace, node: onnx.NodeProto) -> None:
    """SpaceToDepth: each channel becomes block² of them."""
    labels = trace.of(node.input[0])[1]
    trace.give(
        node, (None, None if labels is None else np.tile(labels, int(attribute(node, "blocksize")) ** 2), None, None)
    )


# ---- reshaping -------------------------------------------------------------------------------------------------------


def reshape(trace: Trace, node: onnx.NodeProto) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: what is merged repeats labels; what is split keeps them along one axis."""
    axes = trace.of(node.input[0])
    into, out = trace.shape(node.input[0]), trace.shape(node.output[0])
    found: list[Axis] = [None] * len(out)
    is_attention = goes_into_attention(trace, node)
    for inside, outside in _segments(into, out):
        old = [axes[place] for place in inside]
        if all(axis is None for axis in old):
            continue
        if len(inside) == len(outside) == 1:
            found[outside[0]] = old[0]
            continue
        sizes = [into[place] for place in inside], [out[place] for place in outside]
        new = _regrouped(trace, node, old, sizes, is_attention=is_attention)
        for place, axis in zip(outside, new, strict=True):
            found[place] = axis
    if node.op_type == "Reshape":
        if attribute(node, "allowzero", 0) and 0 in out:
            raise OpaqueError(f"{node_name(node)} makes values of no size")
        follow(trace, node, 1, found)
    trace.give(node, found)


def _segments(into: Dims, out: Dims) -> list[tuple[list[int], list[int]]]:
    """The least runs of axes that have equally many values, (axes before, axes after); unknown sizes are alike.

    From both ends axes are matched one by one, what is left in the middle by products.
    """
    first = 0
    while first < min(len(into), len(out)) and into[first] == out[first]:
        first += 1
    last = 0
    while last < min(len(into), len(out)) - first and into[-1 - last] == out[-1 - last]:
        last += 1
    found = [([place], [place]) for place in range(first)]
    middle = list(range(first, len(into) - last)), list(range(first, len(out) - last))
    if any(into[place] is None for place in middle[0]) or any(out[place] is None for place in middle[1]):
        found.append(middle)
    else:
        found += _by_products(into, out, *middle)
    return [*found, *(([len(into) - 1 - place], [len(out) - 1 - place]) for place in range(last))]


def _by_products(into: Dims, out: Dims, before: list[int], after: list[int]) -> list[tuple[list[int], list[int]]]:
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left: list[int] = []
        right: list[int] = []
        sizes = [1, 1]
        while not (left or right) or sizes[0] != sizes[1]:
            if (sizes[0] <= sizes[1] and i < len(before)) or j == len(after):
                if i == len(before):
                    return [*found, (left + before[i:], right + after[j:])]
                left.append(before[i])
                sizes[0] *= int(into[before[i]] or 0)
                i += 1
            else:
                right.append(after[j])
                sizes[1] *= int(out[after[j]] or 0)
                j += 1
        found.append((left, right))
    return found


def _regrouped(
    trace: Trace, node: onnx.NodeProto, old: Sequence[Axis], sizes: tuple[Dims, Dims], *, is_attention: bool
) -> list[Axis]:
    """The labels of axes that were of the first sizes, with the labels ``old``, and are now of the second."""
    into, out = sizes
    count = math.prod(size or 0 for size in into)
    if list(out).count(None) == 1 and None not in into:  # the rest
        others = math.prod(size or 1 for size in out)
        out = [count // others if size is None else size for size in out]
    labelled = [place for place, axis in enumerate(old) if axis is not None]
    if None in into or None in out or not 0 < count <= _MOST or count != math.prod(size or 0 for size in out):
        trace.fix_all(old, f"{node_name(node)} reshapes it by a size that is not known")
        return [None] * len(out)
    if len(labelled) > 1:
        trace.fix_all(old, f"{node_name(node)} merges two axes of channels")
        return [None] * len(out)
    if not out:
        return []
    place = labelled[0]
    shape = [1] * len(into)
    shape[place] = -1
    labels = old[place]
    assert labels is not None  # the one that is labelled
    block = np.broadcast_to(labels.reshape(shape), [size or 0 for size in into]).reshape([size or 0 for size in out])
    varies = [axis for axis in range(len(out)) if np.any(block != block.take([0], axis))]
    if len(varies) == 1:
        kept = varies[0]
    elif is_attention and len(out) > 1:  # (heads, size), or (3, heads, size)
        kept = len(out) - 2
    else:
        kept = max(varies or [len(out) - 1])
    rows = np.moveaxis(block, kept, 0).reshape(block.shape[kept], -1)
    leaders = trace.join_rows(rows)
    if is_attention and len(varies) > 1:
        trace.tag(leaders, HEADS)
    return [leaders if axis == kept else None for axis in range(len(out))]


def shape_of(trace: Trace, node: onnx.NodeProto) -> None:
    """Sizes are no channels. An axis whose size is asked for stays whole, the others do not care."""
    axes = trace.of(node.input[0])
    asked = range(len(axes))[attribute(node, "start", 0) : attribute(node, "end", len(axes))]
    for place, axis in enumerate(axes):
        if place not in asked:
            trace.tag(axis, _NOT_ASKED)
    trace.give(node, (None,) * len(trace.shape(node.output[0])))


_NOT_ASKED = "not asked for"
_POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"

RULES: Rules = {
    ("", "Transpose"): transpose,
    ("", "Concat"): concat,
    ("", "Split"): split,
    ("", "Slice"): cut_out,
    ("", "Gather"): gather,
    ("", "Pad"): pad,
    **{("", name): pool for name in _POOLS.split()},
    ("", "Resize"): resize,
    ("", "Upsample"): pool,
    ("", "Expand"): expand,
    ("", "Tile"): tile,
    ("", "DepthToSpace"): depth_to_space,
    ("", "SpaceToDepth"): space_to_depth,
    **{("", name): reshape for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    ("", "Shape"): shape_of,
    ("", "Size"): shape_of,
}
