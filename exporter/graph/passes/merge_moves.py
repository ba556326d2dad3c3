"""Reshape after Reshape, Transpose after Transpose → one of them, or none.

Other passes put a value into the shape that they need and back. Shapes must be known.
"""

import onnx

from edgepress.exporter.graph.editing import Editor, pass_by, rewrite
from edgepress.exporter.graph.passes import STATIC, Context, Pass
from edgepress.onnx_graph.walk import attributes_of


def _apply(model: onnx.ModelProto, context: Context) -> int:
    changes = 0
    while found := rewrite(model, context.weights, {("", "Reshape"): _reshape, ("", "Transpose"): _transpose}):
        changes += found + pass_by(model)
    return changes


def _reshape(editor: Editor, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    while (maker := editor.makers.get(x)) is not None and maker.op_type == "Reshape":
        x = maker.input[0]
    shape, y = editor.shape(node.output[0]), node.output[0]
    if shape is None or None in shape:
        return False
    if editor.shape(x) == shape and not _is_output(editor, y):
        editor.emit("Identity", [x], y)
        return True
    if x == node.input[0]:
        return False
    editor.emit("Reshape", [x, editor.integers(*(size for size in shape if size is not None))], y)
    return True


def _transpose(editor: Editor, node: onnx.NodeProto) -> bool:
    maker, y = editor.makers.get(node.input[0]), node.output[0]
    if maker is None or maker.op_type != "Transpose":
        return False
    first, second = (attributes_of(one).get("perm") for one in (maker, node))
    if first is None or second is None:
        return False
    order = [first[axis] for axis in second]
    if order != sorted(order):
        editor.emit("Transpose", [maker.input[0]], y, perm=order)
    elif _is_output(editor, y):
        return False
    else:
        editor.emit("Identity", [maker.input[0]], y)
    return True


def _is_output(editor: Editor, name: str) -> bool:
    return any(value.name == name for value in editor.graph.output)


PASS = Pass(
    name="merge-moves",
    description="Reshape after Reshape and Transpose after Transpose become one, or none",
    operators=(),
    apply=_apply,
    requires=(STATIC,),
)
