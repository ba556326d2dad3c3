"""Skip[Simplified]LayerNormalization → Add and a norm::

x ────┐
skip ─┴ Add ─ (Add bias) ┬ [Simplified]LayerNormalization ─ y
                         └ x + skip (+ bias), when somebody reads it
"""

import onnx

from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.walk import attributes_of, operand, result


def _apply(model: onnx.ModelProto, context: Context) -> int:
    rules = {
        (CONTRIB, "SkipSimplifiedLayerNormalization"): _simplified,
        (CONTRIB, "SkipLayerNormalization"): _whole,
    }
    return rewrite(model, context.weights, rules)


def _simplified(editor: Editor, node: onnx.NodeProto) -> bool:
    return _decompose(editor, node, "SimplifiedLayerNormalization", [operand(node, 2)], operand(node, 3))


def _whole(editor: Editor, node: onnx.NodeProto) -> bool:
    beta = operand(node, 3)
    gains = [operand(node, 2), *([beta] if beta else [])]
    return _decompose(editor, node, "LayerNormalization", gains, operand(node, 4))


def _decompose(editor: Editor, node: onnx.NodeProto, norm: str, gains: list[str], bias: str) -> bool:
    if result(node, 1) or result(node, 2):  # mean and inverse deviation, which exist for training
        return False
    y, total = node.output[0], result(node, 3) or f"{node.output[0]}/sum"
    if bias:
        x = editor.emit("Add", node.input[:2], f"{y}/skip")
        editor.emit("Add", [x, bias], total)
    else:
        editor.emit("Add", node.input[:2], total)
    editor.emit(norm, [total, *gains], y, axis=-1, epsilon=attributes_of(node).get("epsilon", 1e-12))
    return True


PASS = Pass(
    name="decompose-skip-norm",
    description="SkipLayerNormalization and SkipSimplifiedLayerNormalization become Add and a norm",
    operators=(f"{CONTRIB}.SkipSimplifiedLayerNormalization", f"{CONTRIB}.SkipLayerNormalization"),
    apply=_apply,
    makes=("SimplifiedLayerNormalization", "LayerNormalization"),
)
