"""Norms over the last axis of four-dimensional values → the same norm over three dimensions.

Norms of queries and keys work head by head, (batch, sequence, heads, head_dim). Qualcomm's compiler takes
RMSNormalization of such values and computes it wrongly, without a word, where sequence · heads is large
(onnxruntime-qnn 2.7.0, in float16: 3 dB at 16 · 4; LayerNormalization is right). With the two axes as one it is right::

    x ─ Reshape (batch, sequence · heads, head_dim) ─ norm ─ Reshape (batch, sequence, heads, head_dim)
"""

import onnx

from edgepress.exporter.graph.editing import Editor, attributes_of, result, rewrite
from edgepress.exporter.graph.passes import Context, Pass


def _apply(model: onnx.ModelProto, context: Context) -> int:
    return rewrite(model, context.weights, {("", "RMSNormalization"): _flattened})


def _flattened(editor: Editor, node: onnx.NodeProto) -> bool:
    x, y = node.input[0], node.output[0]
    attributes, shape = attributes_of(node), editor.shape(x)
    if shape is None or len(shape) != 4 or attributes.get("axis", -1) not in (-1, 3) or result(node, 1):
        return False
    heads, width = shape[2:]
    if heads is None or width is None:
        return False
    flat = editor.emit("Reshape", [x, editor.integers(0, -1, width)], f"{y}/flat")
    attributes["axis"] = -1
    normed = editor.emit("RMSNormalization", [flat, *node.input[1:]], f"{y}/normed", **attributes)
    editor.emit("Reshape", [normed, editor.integers(0, -1, heads, width)], y)
    return True


PASS = Pass(
    name="flatten-norm",
    description="RMSNormalization of four-dimensional values becomes one of three dimensions",
    operators=(),
    apply=_apply,
)
