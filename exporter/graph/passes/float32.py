"""float16 and bfloat16 → float32: weights, inputs, outputs and every Cast between.

For a provider that chooses its own precision, as HTP does with ``enable_htp_fp16_precision``: it takes float32 graphs.
Outputs are those of the same weights computed in float32.
"""

import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.graph.passes import FLOAT32, Context, Pass
from edgepress.exporter.graph.weights import as_type
from edgepress.onnx_graph.walk import graphs

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype")  # attributes that name a type


def _apply(model: onnx.ModelProto, context: Context) -> int:
    changes = 0
    for graph in graphs(model.graph):
        for index, tensor in enumerate(graph.initializer):
            if tensor.data_type in _HALF:
                rows = as_type(context.weights.rows(tensor), TensorProto.FLOAT)
                graph.initializer[index].CopyFrom(context.weights.tensor(tensor.name, rows))
                changes += 1
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in _HALF:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
                changes += 1
        changes += sum(_in_float(attribute) for node in graph.node for attribute in node.attribute)
    return changes


def _in_float(attribute: onnx.AttributeProto) -> bool:
    if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _HALF:
        attribute.i = TensorProto.FLOAT
        return True
    if attribute.HasField("t") and attribute.t.data_type in _HALF:
        values = numpy_helper.to_array(attribute.t).astype(helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT))
        attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
        return True
    return False


PASS = Pass(
    name="float32",
    description="float16 and bfloat16 weights, values and casts become float32",
    operators=(),
    apply=_apply,
    ensures=(FLOAT32,),
)
