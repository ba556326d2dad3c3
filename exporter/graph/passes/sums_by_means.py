"""ReduceSum → ReduceMean times the number of elements, which must be known; for providers that have the mean alone."""

from math import prod

import numpy as np
import onnx
from onnx import TensorProto

from edgepress.exporter.graph.editing import Editor, copied, rewrite
from edgepress.exporter.graph.passes import STATIC, Context, Pass
from edgepress.onnx_graph.walk import attribute, operand, opset

_AXES_AS_INPUT = 18  # the opset from which ReduceMean reads its axes


def _apply(model: onnx.ModelProto, context: Context) -> int:
    if opset(model) < _AXES_AS_INPUT:
        return 0
    return rewrite(model, context.weights, {("", "ReduceSum"): _by_mean})


def _by_mean(editor: Editor, node: onnx.NodeProto) -> bool:
    x, y = node.input[0], node.output[0]
    shape, axes = editor.shape(x), editor.small(operand(node, 1)) if operand(node, 1) else np.array([], np.int64)
    if shape is None or None in shape or axes is None or editor.type(x) != TensorProto.FLOAT:
        return False
    if not axes.size and attribute(node, "noop_with_empty_axes", 0):
        return False
    sizes = [size for size in shape if size is not None]
    count = prod(sizes[axis] for axis in axes) if axes.size else prod(sizes)
    mean = copied(node)
    mean.op_type, mean.name, mean.output[0] = "ReduceMean", f"{y}/mean", f"{y}/mean"
    editor.nodes.append(mean)
    editor.emit("Mul", [f"{y}/mean", editor.constant(f"number_{count}", np.array(count, np.float32))], y)
    return True


PASS = Pass(
    name="sums-by-means",
    description="ReduceSum becomes ReduceMean times the number of elements",
    operators=("ReduceSum",),
    apply=_apply,
    requires=(STATIC,),
)
