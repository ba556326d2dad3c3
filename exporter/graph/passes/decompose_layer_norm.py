"""LayerNormalization → ``(x − mean(x)) / sqrt(mean((x − mean(x))²) + ε) · gain + bias`` in plain operators.

For providers that have no norm. The square is a product with itself: some take no power.
"""

import numpy as np
import onnx
from onnx import TensorProto

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.walk import attributes_of, operand, opset, result

_AXES_AS_INPUT = 18  # the opset from which ReduceMean reads its axes


def _apply(model: onnx.ModelProto, context: Context) -> int:
    if opset(model) < _AXES_AS_INPUT:
        return 0
    return rewrite(model, context.weights, {("", "LayerNormalization"): _decomposed})


def _decomposed(editor: Editor, node: onnx.NodeProto) -> bool:
    x, y, bias = node.input[0], node.output[0], operand(node, 2)
    attributes, shape = attributes_of(node), editor.shape(x)
    axis = attributes.get("axis", -1)
    if result(node, 1) or result(node, 2) or editor.type(node.input[1]) != TensorProto.FLOAT:
        return False
    if axis != -1 and shape is None:
        return False
    first = axis if shape is None or axis < 0 else axis - len(shape)
    axes = editor.integers(*range(first, 0))
    mean = editor.emit("ReduceMean", [x, axes], f"{y}/mean", keepdims=1)
    centred = editor.emit("Sub", [x, mean], f"{y}/centred")
    squares = editor.emit("Mul", [centred, centred], f"{y}/squares")
    variance = editor.emit("ReduceMean", [squares, axes], f"{y}/variance", keepdims=1)
    epsilon = attributes.get("epsilon", 1e-5)
    above = editor.constant(f"epsilon_{epsilon:.9g}", np.array(epsilon, np.float32))
    root = editor.emit("Sqrt", [editor.emit("Add", [variance, above], f"{y}/above_0")], f"{y}/root")
    normed = editor.emit("Div", [centred, root], f"{y}/normed")
    scaled = editor.emit("Mul", [normed, node.input[1]], f"{y}/scaled" if bias else y)
    if bias:
        editor.emit("Add", [scaled, bias], y)
    return True


PASS = Pass(
    name="decompose-layer-norm",
    description="LayerNormalization becomes ReduceMean, Sub, Mul, Sqrt and Div",
    operators=("LayerNormalization",),
    apply=_apply,
)
