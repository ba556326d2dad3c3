"""ONNX's Gelu → ``x/2 · (1 + erf(x / √2))``, or with tanh where it is asked for.

Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", equation 2 and the approximation below it.
"""

from math import pi, sqrt

import numpy as np
import onnx
from onnx import TensorProto

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.walk import attribute

_CUBE = 0.044715


def _apply(model: onnx.ModelProto, context: Context) -> int:
    return rewrite(model, context.weights, {("", "Gelu"): _plain})


def _plain(editor: Editor, node: onnx.NodeProto) -> bool:
    x, y = node.input[0], node.output[0]
    if editor.type(x) not in (None, TensorProto.FLOAT):
        return False

    def number(value: float) -> str:
        return editor.constant(f"number_{value:.9g}", np.array(value, np.float32))

    if attribute(node, "approximate", "none") == "tanh":
        square = editor.emit("Mul", [x, x], f"{y}/square")
        share = editor.emit("Mul", [square, number(_CUBE)], f"{y}/share")
        bent = editor.emit("Mul", [x, editor.emit("Add", [share, number(1)], f"{y}/above_1")], f"{y}/bent")
        inner = editor.emit("Tanh", [editor.emit("Mul", [bent, number(sqrt(2 / pi))], f"{y}/scaled")], f"{y}/tanh")
    else:
        inner = editor.emit("Erf", [editor.emit("Mul", [x, number(sqrt(0.5))], f"{y}/scaled")], f"{y}/erf")
    gate = editor.emit("Add", [inner, number(1)], f"{y}/gate")
    editor.emit("Mul", [editor.emit("Mul", [x, number(0.5)], f"{y}/half"), gate], y)
    return True


PASS = Pass(
    name="plain-gelu",
    description="ONNX's Gelu becomes Erf or Tanh and products",
    operators=("Gelu",),
    apply=_apply,
    makes=("Erf",),
)
