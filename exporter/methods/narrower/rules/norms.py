"""Normalization: by channel it takes channels as they are; over channels, each has a part in the others' values."""

import onnx

from edgepress.exporter.methods.narrower.trace import (
    Axis,
    Cutting,
    OpaqueError,
    Rules,
    Trace,
    axis_of,
    integers,
    merged,
    node_name,
    present,
)
from edgepress.onnx_graph.walk import attribute, operand

NORMED = "normalized"
"""The tag of channels whose mean or square others are scaled by."""


def by_channel(trace: Trace, node: onnx.NodeProto) -> None:
    """BatchNormalization and InstanceNormalization: constants (channels,) each."""
    axes = list(trace.of(node.input[0]))
    for name in present(node)[1:]:
        axes[1] = trace.join(axes[1], trace.of(name)[0], f"{node_name(node)} normalizes what is not cut")
    trace.give(node, axes)


def over_last(trace: Trace, node: onnx.NodeProto) -> None:
    """LayerNormalization and RMSNormalization: over the axes from ``axis`` on; gains are aligned at the last."""
    shape = trace.shape(node.input[0])
    axes = merged(trace, node, present(node), shape)
    for axis in axes[axis_of(node, -1, len(shape)) :]:
        trace.tag(axis, NORMED)
    trace.give(node, axes)


def skip(trace: Trace, node: onnx.NodeProto) -> None:
    """onnxruntime's Skip…LayerNormalization: a sum, which is the fourth output, and its norm."""
    axes = merged(trace, node, present(node), trace.shape(node.input[0]))
    trace.tag(axes[-1], NORMED)
    trace.give(node, axes)
    trace.give(node, axes, 3)


def by_group(trace: Trace, node: onnx.NodeProto) -> None:
    """GroupNormalization: groups of channels go as a whole, with their gains and biases."""
    groups = int(attribute(node, "num_groups"))
    axes = list(trace.of(node.input[0]))
    channels = axes[1]
    if channels is None:
        raise OpaqueError(f"{node_name(node)} normalizes what is not cut")
    leaders = trace.join_rows(channels.reshape(groups, -1))
    for name in present(node)[1:]:
        own = trace.of(name)[0]
        trace.join(
            own, channels if own is not None and len(own) == len(channels) else leaders, "its gains have no axis"
        )

    def repair(cutting: Cutting, node: onnx.NodeProto) -> None:
        cutting.set_attribute(node, "num_groups", int(cutting.kept(leaders).sum()))

    trace.repair(repair)
    trace.give(node, axes)


def reduce(trace: Trace, node: onnx.NodeProto) -> None:
    """Channels beside the reduced axes stay; of those along them only a mean or a norm can do without some."""
    axes: list[Axis] = list(trace.of(node.input[0]))
    asked = integers(trace, node, 1, "axes")
    if asked is None and operand(node, 1):
        raise OpaqueError(f"{node_name(node)} reduces axes that are computed")
    if asked is None:
        asked = [] if attribute(node, "noop_with_empty_axes", 0) else list(range(len(axes)))
    gone = {place % len(axes) for place in asked}
    for place in gone:
        if node.op_type in ("ReduceMean", "ReduceL2", "ReduceSumSquare"):
            trace.tag(axes[place], NORMED)
        else:
            trace.fix(axes[place], f"{node_name(node)} reduces over it")
        axes[place] = None
    keeps = bool(attribute(node, "keepdims", 1))
    trace.give(node, [axis for place, axis in enumerate(axes) if keeps or place not in gone])


def arg(trace: Trace, node: onnx.NodeProto) -> None:
    """ArgMax and ArgMin give places along an axis."""
    axes: list[Axis] = list(trace.of(node.input[0]))
    place = axis_of(node, 0, len(axes))
    trace.fix(axes[place], f"{node_name(node)} gives places along it")
    axes[place] = None
    trace.give(node, [axis for index, axis in enumerate(axes) if attribute(node, "keepdims", 1) or index != place])


def length(trace: Trace, node: onnx.NodeProto) -> None:
    """LpNormalization: along one axis, to the length 1."""
    axes = trace.of(node.input[0])
    trace.tag(axes[axis_of(node, -1, len(axes))], NORMED)
    trace.give(node, axes)


_REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum"

RULES: Rules = {
    ("", "BatchNormalization"): by_channel,
    ("", "InstanceNormalization"): by_channel,
    ("", "LayerNormalization"): over_last,
    ("", "RMSNormalization"): over_last,
    ("", "SimplifiedLayerNormalization"): over_last,
    ("com.microsoft", "SkipLayerNormalization"): skip,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): skip,
    ("", "GroupNormalization"): by_group,
    ("", "LpNormalization"): length,
    **{("", name): reduce for name in (*_REDUCTIONS.split(), "ReduceSumSquare")},
    ("", "ArgMax"): arg,
    ("", "ArgMin"): arg,
}
