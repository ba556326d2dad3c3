"""Pad with a constant → Concat with what is padded, axis by axis, for providers that have no Pad.

Shape, amounts and value must be known, and no amount negative.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import STATIC, Context, Pass
from edgepress.onnx_graph.walk import attribute, operand

_MOST = 1 << 20  # elements of a constant


def _apply(model: onnx.ModelProto, context: Context) -> int:
    return rewrite(model, context.weights, {("", "Pad"): _plain})


def _plain(editor: Editor, node: onnx.NodeProto) -> bool:
    x, y = node.input[0], node.output[0]
    shape, amounts = editor.shape(x), _amounts(editor, node)
    value = editor.small(operand(node, 2)) if operand(node, 2) else np.array(0, np.float32)
    if shape is None or None in shape or amounts is None or value is None or editor.type(x) != TensorProto.FLOAT:
        return False
    if attribute(node, "mode", "constant") != "constant" or amounts.min() < 0 or not amounts.any():
        return False
    sizes, axes = (
        [size for size in shape if size is not None],
        [axis for axis in range(len(shape)) if amounts[:, axis].any()],
    )
    if np.prod(np.array(sizes, float) + amounts.sum(0)) > _MOST:
        return False
    for axis in axes:
        parts = [x]
        for side, count in enumerate(int(number) for number in amounts[:, axis]):
            if count:
                filled = np.full([*sizes[:axis], count, *sizes[axis + 1 :]], value.item(), np.float32)
                name = editor.constant(f"{y}/filled.{axis}.{side}", filled)
                parts = [name, *parts] if side == 0 else [*parts, name]
        x = editor.emit("Concat", parts, y if axis == axes[-1] else f"{y}/along.{axis}", axis=axis)
        sizes[axis] += int(amounts[:, axis].sum())
    return True


def _amounts(editor: Editor, node: onnx.NodeProto) -> NDArray[np.int64] | None:
    """What is added before and behind each axis, (2, rank)."""
    shape, pads = editor.shape(node.input[0]), editor.small(operand(node, 1)) if operand(node, 1) else None
    if shape is None or pads is None:
        return None
    axes = editor.small(operand(node, 3)) if operand(node, 3) else np.arange(len(shape))
    if axes is None:
        return None
    found = np.zeros((2, len(shape)), np.int64)
    found[:, axes] = pads.reshape(2, -1)
    return found


PASS = Pass(
    name="plain-pad",
    description="Pad with a constant becomes Concat",
    operators=(),
    apply=_apply,
    requires=(STATIC,),
)
