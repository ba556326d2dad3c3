"""A mask of yes and no that ONNX's Attention takes → numbers that it adds to scores: 0, and far below any score.

::

    mask (bool) ──────────────► Attention      mask (bool) ─ Where(0, -10,000) ──► Attention

Some compilers take no masks of booleans. -10,000 is a number in float16 too, and exp of it is 0; a row in which
everything is closed, which has no meaning, gives the mean instead of no number.
"""

import numpy as np
import onnx
from onnx import TensorProto

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.values import inferred
from edgepress.onnx_graph.walk import operand

_CLOSED = -1e4


def _apply(model: onnx.ModelProto, context: Context) -> int:
    if not any(node.op_type == "Attention" and not node.domain and operand(node, 3) for node in model.graph.node):
        return 0
    found = inferred(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*found.input, *found.value_info, *found.output)}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    made: set[str] = set()

    def floats(editor: Editor, node: onnx.NodeProto) -> bool:
        mask, queries = operand(node, 3), kinds.get(node.input[0])
        if not mask or kinds.get(mask) != TensorProto.BOOL or queries not in {TensorProto.FLOAT, TensorProto.FLOAT16}:
            return False
        kind = np.float32 if queries == TensorProto.FLOAT else np.float16
        name = f"{mask}.added.{np.dtype(kind).name}"
        if name not in made:  # masks are shared by all layers
            made.add(name)
            levels = [
                editor.constant(f"mask.{word}.{np.dtype(kind).name}", np.array(value, kind))
                for word, value in (("open", 0), ("closed", _CLOSED))
            ]
            editor.emit("Where", [mask, *levels], name)
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[3] = name
        editor.nodes.append(changed)
        return True

    return rewrite(model, context.weights, {("", "Attention"): floats})


PASS = Pass(
    name="float-masks",
    description="Masks of booleans that Attention takes become numbers that it adds",
    operators=(),
    apply=_apply,
)
