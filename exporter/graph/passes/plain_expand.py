"""Expand to a known shape → a product with ones, which is broadcast; of floats and integers."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import STATIC, Context, Pass

_KINDS = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64)
_MOST = 1 << 20  # elements of a constant


def _apply(model: onnx.ModelProto, context: Context) -> int:
    return rewrite(model, context.weights, {("", "Expand"): _plain})


def _plain(editor: Editor, node: onnx.NodeProto) -> bool:
    x, y = node.input[0], node.output[0]
    kind, shape = editor.type(x), editor.shape(y)
    if kind not in _KINDS or shape is None or None in shape or np.prod(np.array(shape, float)) > _MOST:
        return False
    of = helper.tensor_dtype_to_np_dtype(kind)
    ones = editor.constant(f"ones_{'_'.join(map(str, shape))}.{of.name}", np.ones([size or 0 for size in shape], of))
    editor.emit("Mul", [x, ones], y)
    return True


PASS = Pass(
    name="plain-expand",
    description="Expand of numbers becomes a product with ones",
    operators=(),
    apply=_apply,
    requires=(STATIC,),
)
