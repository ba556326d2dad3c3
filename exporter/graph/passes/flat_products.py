"""MatMul of more than two axes by a matrix of weights → Reshape, MatMul of two axes, Reshape.

Some providers take products of matrices alone. The weights may be dequantized::

    x (…, k) ─ Reshape (n, k) ─ MatMul (k, m) ─ Reshape (…, m)
"""

from math import prod

import onnx

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import STATIC, Context, Pass


def _apply(model: onnx.ModelProto, context: Context) -> int:
    return rewrite(model, context.weights, {("", "MatMul"): _flat})


def _flat(editor: Editor, node: onnx.NodeProto) -> bool:
    x, weight, y = node.input[0], node.input[1], node.output[0]
    shape, maker = editor.shape(x), editor.makers.get(weight)
    stored = maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else weight
    sizes, matrix = [size for size in shape or [] if size is not None], editor.constants.get(stored)
    if matrix is None or len(matrix.dims) != 2 or len(sizes) < 3 or shape is None or len(sizes) < len(shape):
        return False
    flat = f"{x}/flat"
    if flat not in editor.makers and all(flat not in one.output for one in editor.nodes):
        editor.emit("Reshape", [x, editor.integers(prod(sizes[:-1]), sizes[-1])], flat)  # once for all that read x
    editor.emit("MatMul", [flat, weight], f"{y}/flat")
    editor.emit("Reshape", [f"{y}/flat", editor.integers(*sizes[:-1], matrix.dims[1])], y)
    return True


PASS = Pass(
    name="flat-products",
    description="Products of more than two axes by a matrix become products of two",
    operators=(),
    apply=_apply,
    requires=(STATIC,),
)
