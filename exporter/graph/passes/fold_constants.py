"""What is known before the model runs becomes a constant: shapes, masks and indices of a static graph.

A node is computed when all of its inputs are constants and what comes out is small (a weight is never computed here);
Shape and Size when the shape of their input is known; Identity, Dropout and a Cast to the type that a value has
already are passed by. Nodes are computed by onnx's reference evaluator, one at a time. A matrix is transposed when it
is written, and a stored weight gets another shape by saying so. QuantizeLinear and DequantizeLinear stay: what they
make of constants is a provider's business.
"""

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from edgepress.exporter.graph.editing import Editor, pass_by, rewrite
from edgepress.exporter.graph.passes import STATIC, Context, Pass
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.walk import attributes_of, opset

_MOST = 1 << 20  # elements that a folded constant may have
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_KEPT = ("Constant", "If", "Loop", "Scan", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear")
_ROUNDS = 8  # of folding and looking at shapes again; each makes more of them known


def _apply(model: onnx.ModelProto, context: Context) -> int:
    changes = 0
    for _ in range(_ROUNDS):
        found = _fold(model, context.weights) + pass_by(model)
        if not found:
            break
        changes += found
    return changes


def _fold(model: onnx.ModelProto, weights: Weights) -> int:
    kinds = {("", node.op_type) for node in model.graph.node if node.domain in ("", "ai.onnx")}
    kinds -= {("", op) for op in (*_RANDOM, *_KEPT)}
    return rewrite(model, weights, dict.fromkeys(kinds, _computed))


def _computed(editor: Editor, node: onnx.NodeProto) -> bool:
    if node.op_type in ("Shape", "Size") and _shape(editor, node):
        return True
    if node.op_type in ("Transpose", "Reshape") and _moved(editor, node):
        return True
    feeds = {}
    for name in filter(None, node.input):
        value = editor.small(name)
        if value is None:
            return False
        feeds[name] = value
    sizes = [editor.shape(name) for name in node.output if name]
    if any(size is None or None in size or np.prod(np.array(size, float)) > _MOST for size in sizes):
        return False
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    names = [name for name in node.output if name]
    graph = helper.make_graph([node], "one", inputs, [onnx.ValueInfoProto(name=name) for name in names])
    one = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset(editor.model))])
    try:
        values = ReferenceEvaluator(one).run(None, feeds)
    except Exception:  # of any type: it lacks some of what operators may do, such as GatherElements of a part
        return False
    for name, value in zip(names, values, strict=True):
        editor.constant(name, np.asarray(value))
    return True


def _moved(editor: Editor, node: onnx.NodeProto) -> bool:
    """A weight that is transposed, or of another shape, without reading it."""
    tensor, y = editor.constants.get(node.input[0]), node.output[0]
    if tensor is None:
        return False
    if node.op_type == "Transpose":
        if len(tensor.dims) != 2 or attributes_of(node).get("perm", [1, 0]) != [1, 0]:
            return False
        editor.weight(y, editor.weights.rows(tensor).T)
        return True
    shape = editor.shape(y)
    if not editor.weights.is_stored(tensor) or shape is None or None in shape:
        return False
    editor.alias(y, tensor, [size for size in shape if size is not None])
    return True


def _shape(editor: Editor, node: onnx.NodeProto) -> bool:
    shape = editor.shape(node.input[0])
    if shape is None or None in shape:
        return False
    attributes = attributes_of(node)
    part = shape[attributes.get("start", 0) : attributes.get("end", len(shape))]
    value = np.array(part, np.int64) if node.op_type == "Shape" else np.prod(np.array(shape, np.int64))
    editor.constant(node.output[0], np.asarray(value, np.int64))
    return True


PASS = Pass(
    name="fold-constants",
    description="What is known before the model runs becomes a constant",
    operators=("Constant", "Identity", "Dropout", "Shape", "Size", "Range", "ConstantOfShape"),
    apply=_apply,
    where=(STATIC,),  # Range of a length that is not known stays
)
