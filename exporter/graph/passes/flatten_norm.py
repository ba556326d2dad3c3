"""Norms over the last axis of values of any rank → the same norm over three dimensions.

Norms of queries and keys work head by head, (batch, sequence, heads, head_dim). Qualcomm's compiler takes
RMSNormalization of such values and computes it wrongly, without a word, for many sizes (targets/qnn_htp.py,
``SHAPE_RULES``). With all axes but the last as one it is right::

    x ─ Reshape (1, batch · sequence · heads, head_dim) ─ norm ─ Reshape (batch, sequence, heads, head_dim)
"""

import onnx

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.walk import attributes_of, result


def _apply(model: onnx.ModelProto, context: Context) -> int:
    return rewrite(model, context.weights, {("", "RMSNormalization"): _flattened})


def _flattened(editor: Editor, node: onnx.NodeProto) -> bool:
    x, y = node.input[0], node.output[0]
    attributes, shape = attributes_of(node), editor.shape(x)
    if shape is None or len(shape) < 3 or (len(shape) == 3 and shape[0] in {1, None}):
        return False
    if attributes.get("axis", -1) not in {-1, len(shape) - 1} or result(node, 1):
        return False
    width = shape[-1]
    if not width or 0 in shape or shape.count(None) > 1:
        return False
    flat = editor.emit("Reshape", [x, editor.integers(1, -1, width)], f"{y}/flat")
    attributes["axis"] = -1
    normed = editor.emit("RMSNormalization", [flat, *node.input[1:]], f"{y}/normed", **attributes)
    editor.emit("Reshape", [normed, editor.integers(*(-1 if size is None else size for size in shape))], y)
    return True


PASS = Pass(
    name="flatten-norm",
    description="RMSNormalization of values of any rank becomes one of three dimensions, (1, rows, width)",
    operators=(),
    apply=_apply,
    requires=("SimplifiedLayerNormalization",),
)
