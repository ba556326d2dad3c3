"""Attention: heads go as a whole, from what makes queries, keys and values to the product that reads the result."""

import numpy as np
import onnx

from edgepress.exporter.methods.narrower.trace import Axis, Cutting, Labels, OpaqueError, Rules, Trace, node_name
from edgepress.onnx_graph.walk import attribute, operand

HEADS = "heads"
"""The tag of what belongs to one attention head."""

_ON_THE_WAY = frozenset(
    (
        *("Add", "Cast", "Concat", "Div", "Gather", "Identity", "Mul", "Neg", "Reshape", "Slice", "Softmax", "Split"),
        *("Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where"),
    )
)
_FAR = 24  # nodes between a reshape and the product that it is for


def goes_into_attention(trace: Trace, node: onnx.NodeProto) -> bool:
    """Whether what a node makes is multiplied with another computed value, moved and scaled on the way, never mixed."""
    ahead, seen = list(node.output), set(node.output)
    for _ in range(_FAR):
        if not ahead:
            return False
        name = ahead.pop(0)
        for reader in trace.scope.readers.get(name, ()):
            if reader.op_type in ("MatMul", "Einsum") and not any(map(trace.is_constant, reader.input)):
                return True
            if reader.op_type == "Attention":
                return True
            if reader.op_type in _ON_THE_WAY and (reader.op_type != "Reshape" or name == node.output[0]):
                new = [output for output in reader.output if output not in seen]
                seen.update(new)
                ahead.extend(new)
    return False


def _heads(trace: Trace, axis: Axis, count: int, why: str) -> Labels:
    """The first label of each head of an axis (heads · size), all of a head joined."""
    if axis is None or len(axis) % count:
        raise OpaqueError(why)
    return trace.join_rows(axis.reshape(count, -1))


def _per_head(axis: Axis, leaders: Labels) -> Labels:
    """Labels of an axis (heads · size) whose heads are these."""
    return np.repeat(leaders, 0 if axis is None else len(axis) // len(leaders))


def _count(trace: Trace, leaders: Labels, *names: str) -> None:
    def repair(cutting: Cutting, node: onnx.NodeProto) -> None:
        for name in names:
            cutting.set_attribute(node, name, int(cutting.kept(leaders).sum()))

    trace.repair(repair)


def _works(
    trace: Trace, node: onnx.NodeProto, leaders: Labels, size: int, lengths: tuple[int | None, int | None]
) -> None:
    """Scores and what they weigh: twice queries × keys × size, for each head."""
    trace.works(node, 2 * size, (len(leaders), leaders), *lengths)


def multi_head(trace: Trace, node: onnx.NodeProto) -> None:
    """onnxruntime's MultiHeadAttention of queries, keys and values (batch, length, heads · size), apart."""
    count = int(attribute(node, "num_heads"))
    names = [operand(node, index) for index in range(3)]
    if not all(names) or any(len(trace.shape(name)) != 3 for name in names) or operand(node, 6):
        raise OpaqueError(f"{node_name(node)} packs its inputs, or has a cache")
    queries, keys, values = (trace.of(name)[2] for name in names)
    why = f"{node_name(node)} reads what is not cut"
    leaders = _heads(trace, queries, count, why)
    for axis in (keys, values):
        trace.join(leaders, _heads(trace, axis, count, why), why)
    if operand(node, 3):
        sizes = [queries, keys, values]
        bias = np.concatenate([_per_head(axis, leaders) for axis in sizes])
        trace.join(bias, trace.of(node.input[3])[0], f"{node_name(node)} has a bias that is not cut")
    _scores_bias(trace, node, 5, leaders)
    trace.tag(leaders, HEADS)
    _count(trace, leaders, "num_heads")
    size = (0 if queries is None else len(queries)) // count
    _works(trace, node, leaders, size, (trace.shape(names[0])[1], trace.shape(names[1])[1]))
    trace.give(node, (None, None, _per_head(values, leaders)))


def packed(trace: Trace, node: onnx.NodeProto) -> None:
    """onnxruntime's Attention, which has the projection in it: weight (in, 3 · heads · size)."""
    count = int(attribute(node, "num_heads"))
    if attribute(node, "qkv_hidden_sizes") or operand(node, 4) or not trace.is_constant(operand(node, 1)):
        raise OpaqueError(f"{node_name(node)} has sizes of their own, or a cache")
    inside, labels = trace.of(node.input[1])
    trace.join(trace.of(node.input[0])[2], inside, f"{node_name(node)} reads what is not cut")
    trace.reads(node.input[1], 0)
    if labels is None or len(labels) % (3 * count):
        raise OpaqueError(f"{node_name(node)} has {count} heads, which do not divide its weight")
    block = labels.reshape(3, count, -1)
    leaders = trace.join_rows(block.transpose(1, 0, 2).reshape(count, -1))
    if operand(node, 2):
        trace.join(labels, trace.of(node.input[2])[0], f"{node_name(node)} has a bias that is not cut")
    _scores_bias(trace, node, 5, leaders)
    trace.tag(leaders, HEADS)
    _count(trace, leaders, "num_heads")
    length = trace.shape(node.input[0])[1]
    sizes = trace.shape(node.input[1])
    trace.works(node, length, (sizes[0], inside), (sizes[1], labels))
    _works(trace, node, leaders, block.shape[2], (length, length))
    trace.give(node, (None, None, np.repeat(leaders, block.shape[2])))


def standard(trace: Trace, node: onnx.NodeProto) -> None:
    """ONNX's Attention: three axes with the numbers of heads as attributes, or (batch, heads, length, size).

    Where several heads of queries share one of keys and values they go together.
    """
    axes = [trace.of(node.input[index]) for index in range(3)]
    shapes = [trace.shape(node.input[index]) for index in range(3)]
    why = f"{node_name(node)} reads what is not cut"
    if operand(node, 4) or operand(node, 5):
        raise OpaqueError(f"{node_name(node)} has a cache")
    is_apart = len(shapes[0]) == 4
    of_heads = [own[1 if is_apart else 2] for own in axes]
    count, others = (
        shapes[index][1] if is_apart else int(attribute(node, f"{name}_num_heads"))
        for index, name in enumerate(("q", "kv"))
    )
    if not count or not others or count % others:
        raise OpaqueError(f"{node_name(node)} has {count} heads of queries for {others} of keys")
    place, shared = 2 if is_apart else 1, count // others  # the axis of tokens; how many heads see one of keys
    size = shapes[0][3] if is_apart else (shapes[0][2] or 0) // count
    lengths = shapes[0][place], shapes[1][place]
    if all(axis is None for axis in of_heads):  # one head, or nothing that is cut
        trace.works(node, 2 * (size or 0), count, *lengths)
        if any(own[-1] is not None for own in axes):
            raise OpaqueError(f"{node_name(node)} sums products of computed values over it")
        trace.give(node, (None,) * len(shapes[0]))
        return
    leaders = _heads(trace, of_heads[0], others, why)  # of each head of keys
    for axis in of_heads[1:]:
        trace.join(leaders, _heads(trace, axis, others, why), why)
    _scores_bias(trace, node, 3, np.repeat(leaders, shared))
    trace.tag(leaders, HEADS)
    _works(trace, node, leaders, shared * (size or 0), lengths)
    if is_apart:
        trace.give(node, (None, np.repeat(leaders, shared), None, None))
        return

    def repair(cutting: Cutting, node: onnx.NodeProto) -> None:
        left = int(cutting.kept(leaders).sum())
        cutting.set_attribute(node, "q_num_heads", shared * left)
        cutting.set_attribute(node, "kv_num_heads", left)

    trace.repair(repair)
    trace.give(node, (None, None, np.repeat(_per_head(of_heads[2], leaders), shared)))


def _scores_bias(trace: Trace, node: onnx.NodeProto, index: int, leaders: Labels) -> None:
    """What is added to scores, (…, heads or 1, queries, keys): its heads are these, the rest is no channel."""
    if name := operand(node, index):
        axes, dims = trace.of(name), trace.shape(name)
        for place, axis in enumerate(axes):
            if place != len(axes) - 3:
                trace.fix(axis, f"{node_name(node)} adds it to scores")
            elif dims[place] != 1:
                trace.join(leaders, axis, f"{node_name(node)} adds to scores what is not cut")


RULES: Rules = {
    ("com.microsoft", "MultiHeadAttention"): multi_head,
    ("com.microsoft", "Attention"): packed,
    ("", "Attention"): standard,
}
