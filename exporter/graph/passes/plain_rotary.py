"""RotaryEmbedding (com.microsoft) → Gather of the tables, products and sums.

With x cut into pairs (a, b), halves or neighbours: ``(a cos − b sin, b cos + a sin)``; dimensions beyond the rotated
ones pass (Su et al. 2021, RoFormer, eq. 34). See :mod:`edgepress.exporter.graph.attention`.
"""

import numpy as np
import onnx

from edgepress.errors import InputError
from edgepress.exporter.graph.attention import Rotary, join_heads, rotate, split_heads, swap_heads
from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.walk import attributes_of


def _apply(model: onnx.ModelProto, context: Context) -> int:
    return rewrite(model, context.weights, {(CONTRIB, "RotaryEmbedding"): _plain})


def _plain(editor: Editor, node: onnx.NodeProto) -> bool:
    x, positions, cos, sin = node.input
    attributes, y = attributes_of(node), node.output[0]
    table, shape, positions_shape = editor.shape(cos), editor.shape(x), editor.shape(positions)
    if table is None or table[1] is None or shape is None or positions_shape is None:
        return False
    if attributes.get("is_packed_batching") or attributes.get("scale", 1.0) != 1.0:
        raise InputError(f"{y}: RotaryEmbedding with is_packed_batching or a scale is not implemented")
    rotated = 2 * table[1]
    flat = len(shape) == 3
    head_dim: int | None = shape[-1]
    if flat:
        heads = attributes.get("num_heads", 0)
        width = shape[-1]
        head_dim = rotated if not attributes.get("rotary_embedding_dim", 0) else _divided(width, heads)
    if head_dim is None:
        return False
    x = split_heads(editor, x, head_dim, f"{y}/heads") if flat else swap_heads(editor, x, f"{y}/by_token")
    if len(positions_shape) == 1:  # one offset: positions count on from it
        positions = _counted(editor, x, positions, f"{y}/positions")
    rotary = Rotary(cos, sin, positions, rotated, interleaved=bool(attributes.get("interleaved", 0)))
    turned = rotate(editor, x, rotary, head_dim, f"{y}/rotated")
    (join_heads if flat else swap_heads)(editor, turned, y)
    return True


def _divided(width: int | None, heads: int) -> int | None:
    return None if not width or not heads else width // heads


def _counted(editor: Editor, x: str, offset: str, output: str) -> str:
    """Positions (1, sequence) from ``offset`` on; x is (batch, sequence, heads, head_dim)."""
    shape = editor.emit("Shape", [x], f"{output}/shape", start=1, end=2)
    length = editor.emit("Squeeze", [shape], f"{output}/length")
    start, step = (editor.constant(f"int_{n}", np.array(n, np.int64)) for n in (0, 1))
    row = editor.emit("Range", [start, length, step], f"{output}/steps")
    moved = editor.emit("Add", [row, offset], f"{output}/moved")
    return editor.emit("Unsqueeze", [moved, editor.integers(0)], output)


PASS = Pass(
    name="plain-rotary",
    description="onnxruntime's RotaryEmbedding becomes Gather, Mul, Sub and Add",
    operators=(f"{CONTRIB}.RotaryEmbedding",),
    apply=_apply,
    makes=("Shape", "Range"),
)
