"""Symbolic dimensions → numbers: what ``Context.shapes`` names, in inputs, outputs and values; nodes are untouched.

Reshapes and masks that were computed from shapes become constants in ``fold-constants``, after this.
"""

import onnx

from edgepress.errors import InputError
from edgepress.exporter.graph.passes import STATIC, Context, Pass
from edgepress.onnx_graph.values import inferred
from edgepress.onnx_graph.walk import graphs


def _apply(model: onnx.ModelProto, context: Context) -> int:
    for name, size in context.shapes.items():
        if size < 0:
            raise InputError(f"dimension {name} is said to be {size}; it cannot be negative")
    changes = 0
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in context.shapes and dim.HasField("dim_param"):
                    dim.dim_value = context.shapes[dim.dim_param]
                    changes += 1
    if changes:
        _infer(model)
    return changes


def _infer(model: onnx.ModelProto) -> None:
    """Put what is now known of shapes into the model: of outputs too, which symbols made by nodes leave unknown."""
    found = inferred(model)
    del model.graph.value_info[:]
    model.graph.value_info.extend(found.graph.value_info)
    del model.graph.output[:]
    model.graph.output.extend(found.graph.output)


PASS = Pass(
    name="bind-shapes",
    description="Symbolic dimensions become numbers",
    operators=(),
    apply=_apply,
    ensures=(STATIC,),
)
