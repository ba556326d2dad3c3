"""ReduceL2 → ``sqrt(sum(x²))``, the square a product with itself."""

import onnx

from edgepress.exporter.graph.editing import Editor, copied, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.walk import opset

_AXES_AS_INPUT = 18  # the opset from which ReduceL2 reads its axes, as ReduceSum does


def _apply(model: onnx.ModelProto, context: Context) -> int:
    if opset(model) < _AXES_AS_INPUT:
        return 0
    return rewrite(model, context.weights, {("", "ReduceL2"): _plain})


def _plain(editor: Editor, node: onnx.NodeProto) -> bool:
    x, y = node.input[0], node.output[0]
    summed = copied(node)
    summed.op_type, summed.name = "ReduceSum", f"{y}/sum"
    summed.input[0], summed.output[0] = editor.emit("Mul", [x, x], f"{y}/squares"), f"{y}/sum"
    editor.nodes.append(summed)
    editor.emit("Sqrt", [f"{y}/sum"], y)
    return True


PASS = Pass(
    name="plain-reduce-l2",
    description="ReduceL2 becomes Mul, ReduceSum and Sqrt",
    operators=("ReduceL2",),
    apply=_apply,
    makes=("ReduceSum",),
)
