"""What masks are made by, in arithmetic, for providers without logic: And, and Where between two numbers.

::

    And(a, b)           ─►  Cast(Cast(a) · Cast(b))
    Where(open, a, b)   ─►  Cast(open) · (a − b) + b      a and b finite constants of one element
"""

import numpy as np
import onnx
from onnx import TensorProto

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass


def _apply(model: onnx.ModelProto, context: Context) -> int:
    return rewrite(model, context.weights, {("", "And"): _both, ("", "Where"): _chosen})


def _both(editor: Editor, node: onnx.NodeProto) -> bool:
    y = node.output[0]
    numbers = [
        editor.emit("Cast", [name], f"{y}/number.{at}", to=TensorProto.FLOAT) for at, name in enumerate(node.input)
    ]
    editor.emit("Cast", [editor.emit("Mul", numbers, f"{y}/product")], y, to=TensorProto.BOOL)
    return True


def _chosen(editor: Editor, node: onnx.NodeProto) -> bool:
    y, choices = node.output[0], [editor.small(name) for name in node.input[1:]]
    first, second = choices
    if first is None or second is None or first.dtype != np.float32 or first.size != 1 or second.size != 1:
        return False
    a, b = np.float32(first.item()), np.float32(second.item())
    if not (np.isfinite(a) and np.isfinite(b) and np.isfinite(a - b)) or max(first.ndim, second.ndim) > 0:
        return False
    number = editor.emit("Cast", [node.input[0]], f"{y}/number", to=TensorProto.FLOAT)
    between = editor.constant(f"number_{a - b:.9g}", np.array(a - b, np.float32))
    scaled = editor.emit("Mul", [number, between], f"{y}/scaled")
    editor.emit("Add", [scaled, editor.constant(f"number_{b:.9g}", np.array(b, np.float32))], y)
    return True


PASS = Pass(
    name="plain-logic",
    description="And, and Where between two numbers, become arithmetic",
    operators=("And",),
    apply=_apply,
)
