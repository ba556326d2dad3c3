"""onnxruntime's own activations → ONNX's.

- QuickGelu: ``x · sigmoid(α x)``
- Gelu and BiasGelu (com.microsoft): ``Gelu(x)``, ``Gelu(x + bias)`` with the error function
- FastGelu: ``Gelu(x (+ bias))`` with tanh
"""

import numpy as np
import onnx

from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.walk import attributes_of, operand, opset

_GELU = 20  # the opset in which ONNX has Gelu


def _apply(model: onnx.ModelProto, context: Context) -> int:
    rules = {(CONTRIB, "QuickGelu"): _quick}
    if opset(model) >= _GELU:
        rules |= {(CONTRIB, "Gelu"): _exact, (CONTRIB, "BiasGelu"): _exact, (CONTRIB, "FastGelu"): _tanh}
    return rewrite(model, context.weights, rules)


def _quick(editor: Editor, node: onnx.NodeProto) -> bool:
    x, y = node.input[0], node.output[0]
    alpha = attributes_of(node).get("alpha", 1.702)
    scaled = x
    if alpha != 1.0:
        scaled = editor.emit("Mul", [x, editor.constant(f"{y}/alpha", np.array(alpha, np.float32))], f"{y}/scaled")
    gate = editor.emit("Sigmoid", [scaled], f"{y}/gate")
    editor.emit("Mul", [x, gate], y)
    return True


def _exact(editor: Editor, node: onnx.NodeProto) -> bool:
    return _gelu(editor, node, "none")


def _tanh(editor: Editor, node: onnx.NodeProto) -> bool:
    return _gelu(editor, node, "tanh")


def _gelu(editor: Editor, node: onnx.NodeProto, approximate: str) -> bool:
    x, y = node.input[0], node.output[0]
    if operand(node, 1):
        x = editor.emit("Add", node.input[:2], f"{y}/biased")
    editor.emit("Gelu", [x], y, approximate=approximate)
    return True


PASS = Pass(
    name="plain-activations",
    description="onnxruntime's QuickGelu, Gelu, BiasGelu and FastGelu become ONNX's operators",
    operators=tuple(f"{CONTRIB}.{op}" for op in ("QuickGelu", "Gelu", "BiasGelu", "FastGelu")),
    apply=_apply,
    makes=("Gelu",),
)
