"""Gather → a constant, Slice or GatherND, for providers that have no Gather.

- of a constant by constants (the positions of a text of one length): the rows, when the weight is written
- by one constant number: Slice, and Reshape to take the axis away
- along the first axis by numbers that are computed (embeddings): ``GatherND(x, Unsqueeze(numbers, -1))``
"""

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import STATIC, Context, Pass
from edgepress.onnx_graph.tensors import Rows
from edgepress.onnx_graph.walk import attribute


def _apply(model: onnx.ModelProto, context: Context) -> int:
    return rewrite(model, context.weights, {("", "Gather"): _plain})


def _plain(editor: Editor, node: onnx.NodeProto) -> bool:  # noqa: PLR0911 - case by case, as above
    x, indices, y = node.input[0], node.input[1], node.output[0]
    shape, axis, numbers = editor.shape(x), attribute(node, "axis", 0), editor.small(indices)
    if shape is None:
        return False
    axis += len(shape) if axis < 0 else 0
    if numbers is None:
        if axis or editor.shape(indices) is None:
            return False
        places = editor.emit("Unsqueeze", [indices, editor.integers(-1)], f"{y}/places")
        editor.emit("GatherND", [x, places], y)
        return True
    size = shape[axis]
    if size is None:
        return False
    if axis == 0 and x in editor.constants:
        return _of_constant(editor, node, numbers % size)
    if numbers.ndim or None in shape:
        return False
    at = int(numbers % size)
    rows = [editor.integers(value) for value in (at, at + 1, axis, 1)]
    editor.emit("Slice", [x, *rows], f"{y}/slice")
    kept = [one for place, one in enumerate(shape) if place != axis and one is not None]
    editor.emit("Reshape", [f"{y}/slice", editor.integers(*kept)], y)
    return True


def _of_constant(editor: Editor, node: onnx.NodeProto, numbers: NDArray[np.int64]) -> bool:
    tensor = editor.constants[node.input[0]]
    rows, flat = editor.weights.rows(tensor), numbers.reshape(-1)
    if rows.transposed:
        return False

    def read(start: int, stop: int) -> NDArray[np.generic]:
        return np.concatenate([rows.read(int(at), int(at) + 1) for at in flat[start:stop]])

    found = Rows((len(flat), *rows.dims[1:]), rows.dtype, read)
    if numbers.ndim == 1:
        editor.weight(node.output[0], found)
        return True
    picked = editor.weight(f"{node.output[0]}/rows", found)
    editor.emit("Reshape", [picked, editor.integers(*numbers.shape, *rows.dims[1:])], node.output[0])
    return True


PASS = Pass(
    name="plain-gather",
    description="Gather becomes a constant, Slice or GatherND",
    operators=(),
    apply=_apply,
    requires=(STATIC,),
)
