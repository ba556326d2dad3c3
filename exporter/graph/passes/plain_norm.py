"""SimplifiedLayerNormalization (onnxruntime's, under ONNX's domain) → RMSNormalization (ONNX, opset 23).

``y = x / sqrt(mean(x²) + ε) · gain`` over the axes from ``axis`` on: the same formula and attributes.
"""

import onnx

from edgepress.exporter.graph.editing import Editor, require_opset, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.walk import attributes_of, result


def _apply(model: onnx.ModelProto, context: Context) -> int:
    changes = rewrite(model, context.weights, {("", "SimplifiedLayerNormalization"): _plain})
    if changes:
        require_opset(model, 23)
    return changes


def _plain(editor: Editor, node: onnx.NodeProto) -> bool:
    if result(node, 1):  # the inverse deviation, which RMSNormalization does not give
        return False
    attributes = attributes_of(node)
    editor.emit(
        "RMSNormalization",
        node.input,
        node.output[0],
        axis=attributes.get("axis", -1),
        epsilon=attributes.get("epsilon", 1e-5),
    )
    return True


PASS = Pass(
    name="plain-norm",
    description="SimplifiedLayerNormalization becomes ONNX's RMSNormalization",
    operators=("SimplifiedLayerNormalization",),
    apply=_apply,
    makes=("RMSNormalization",),
)
