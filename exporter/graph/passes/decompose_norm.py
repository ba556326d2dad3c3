"""RMSNormalization → ``x / sqrt(mean(x²) + ε) · gain`` in plain operators, over the last axis.

For providers that do not know the operator: OpenVINO 1.8.1's plugin leaves it to the CPU, and takes these. In float16
x² overflows from 256 on, so this is not for the HTP, which has the operator.
"""

import numpy as np
import onnx

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.walk import attributes_of, opset

_AXES_AS_INPUT = 18  # the opset from which ReduceMean reads its axes


def _apply(model: onnx.ModelProto, context: Context) -> int:
    if opset(model) < _AXES_AS_INPUT:
        return 0
    return rewrite(model, context.weights, {("", "RMSNormalization"): _decomposed})


def _decomposed(editor: Editor, node: onnx.NodeProto) -> bool:
    x, gain, y = node.input[0], node.input[1], node.output[0]
    attributes, shape = attributes_of(node), editor.shape(x)
    last = (-1,) if shape is None else (-1, len(shape) - 1)
    if attributes.get("axis", -1) not in last or len(node.output) > 1:
        return False
    squares = editor.emit("Mul", [x, x], f"{y}/squares")
    mean = editor.emit("ReduceMean", [squares, editor.integers(-1)], f"{y}/mean", keepdims=1)
    epsilon = attributes.get("epsilon", 1e-5)
    above = editor.constant(f"epsilon_{epsilon:.9g}", np.array(epsilon, np.float32))
    root = editor.emit("Sqrt", [editor.emit("Add", [mean, above], f"{y}/above_0")], f"{y}/root")
    editor.emit("Mul", [editor.emit("Div", [x, root], f"{y}/normed"), gain], y)
    return True


PASS = Pass(
    name="decompose-norm",
    description="RMSNormalization becomes Mul, ReduceMean, Sqrt and Div",
    operators=("RMSNormalization",),
    apply=_apply,
    requires=("SimplifiedLayerNormalization",),
)
