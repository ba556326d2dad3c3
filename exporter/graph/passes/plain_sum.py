"""Sum of any number of values → Add after Add."""

import onnx

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass


def _apply(model: onnx.ModelProto, context: Context) -> int:
    return rewrite(model, context.weights, {("", "Sum"): _plain})


def _plain(editor: Editor, node: onnx.NodeProto) -> bool:
    total, y = node.input[0], node.output[0]
    if len(node.input) == 1:
        editor.emit("Identity", [total], y)
        return True
    for number, name in enumerate(node.input[1:], 2):
        total = editor.emit("Add", [total, name], y if number == len(node.input) else f"{y}/of_{number}")
    return True


PASS = Pass(
    name="plain-sum",
    description="Sum becomes Add after Add",
    operators=("Sum",),
    apply=_apply,
    makes=("Identity",),
)
