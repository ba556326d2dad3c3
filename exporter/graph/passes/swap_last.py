"""Reshape → Transpose → Reshape that only swap the last two axes → Transpose.

torch's exporter writes keys in scaled dot product attention so; heads are then no axis of their own::

    (b, h, s, d) ─ Reshape (b·h, s, d) ─ Transpose (b·h, d, s) ─ Reshape (b, h, d, s)
"""

from functools import cache

import onnx

from edgepress.exporter.graph.editing import Editor, pass_by, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.values import named_shapes
from edgepress.onnx_graph.walk import attribute


def _apply(model: onnx.ModelProto, context: Context) -> int:
    shapes = cache(lambda: named_shapes(model))

    def last(editor: Editor, node: onnx.NodeProto) -> bool:
        turned = editor.makers.get(node.input[0])
        first = None if turned is None else editor.makers.get(turned.input[0])
        if turned is None or first is None or turned.op_type != "Transpose" or first.op_type != "Reshape":
            return False
        before, after = shapes().get(first.input[0], ()), shapes().get(node.output[0], ())
        middle = shapes().get(first.output[0], ())
        if len(before) != 4 or attribute(turned, "perm") != [0, 2, 1] or after != (*before[:2], before[3], before[2]):
            return False
        if len(middle) != 3 or middle[1:] != before[2:]:
            return False
        editor.emit("Transpose", [first.input[0]], node.output[0], perm=[0, 1, 3, 2])
        return True

    changes = rewrite(model, context.weights, {("", "Reshape"): last})
    return changes + (pass_by(model) if changes else 0)


PASS = Pass(
    name="swap-last",
    description="Reshape, Transpose and Reshape that swap the last two axes of four become one Transpose",
    operators=(),
    apply=_apply,
)
