"""Flatten of a known shape → Reshape."""

from math import prod

import onnx

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import STATIC, Context, Pass
from edgepress.onnx_graph.walk import attribute


def _apply(model: onnx.ModelProto, context: Context) -> int:
    return rewrite(model, context.weights, {("", "Flatten"): _plain})


def _plain(editor: Editor, node: onnx.NodeProto) -> bool:
    shape = editor.shape(node.input[0])
    if shape is None or None in shape:
        return False
    sizes = [size for size in shape if size is not None]
    axis = attribute(node, "axis", 1)
    axis += len(sizes) if axis < 0 else 0
    after = editor.integers(prod(sizes[:axis]), prod(sizes[axis:]))
    editor.emit("Reshape", [node.input[0], after], node.output[0])
    return True


PASS = Pass(
    name="plain-flatten",
    description="Flatten becomes Reshape",
    operators=("Flatten",),
    apply=_apply,
    requires=(STATIC,),
)
