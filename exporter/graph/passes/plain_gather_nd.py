"""GatherND that takes every element once, in order → Reshape.

torch writes ``mask[batch, position]`` so, with indices that broadcast; where batch and length are numbers, these are
all there are::

    x (a, b, …) ─ GatherND(indices (…, 2) = (0, 0), (0, 1) … (a-1, b-1)) ─► Reshape
"""

from math import prod

import numpy as np
import onnx

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import STATIC, Context, Pass
from edgepress.onnx_graph.values import inferred
from edgepress.onnx_graph.walk import attribute


def _apply(model: onnx.ModelProto, context: Context) -> int:
    if not any(node.op_type == "GatherND" and not node.domain for node in model.graph.node):
        return 0
    found = inferred(model).graph
    shapes = {
        value.name: [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
        for value in (*found.input, *found.value_info, *found.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}

    def plain(editor: Editor, node: onnx.NodeProto) -> bool:
        shape, indices = shapes.get(node.input[0]), editor.small(node.input[1])
        if shape is None or indices is None or attribute(node, "batch_dims"):
            return False
        depth = indices.shape[-1]
        sizes = [size for size in shape if size is not None]
        if len(sizes) < len(shape) or indices.size // depth != prod(sizes[:depth]):
            return False
        places = indices.reshape(-1, depth) % np.array(sizes[:depth])  # negative ones count from the end
        numbers = np.ravel_multi_index(tuple(places.T), tuple(sizes[:depth]))
        if not np.array_equal(numbers, np.arange(len(numbers))):
            return False
        after = editor.integers(*indices.shape[:-1], *sizes[depth:])
        editor.emit("Reshape", [node.input[0], after], node.output[0])
        return True

    return rewrite(model, context.weights, {("", "GatherND"): plain})


PASS = Pass(
    name="plain-gather-nd",
    description="GatherND that takes everything in its order becomes Reshape",
    operators=(),
    apply=_apply,
    requires=(STATIC,),
)
