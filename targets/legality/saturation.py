"""Products of uint8 by int8, whose sums saturate in a plain session on x86-64 with AVX2 and no VNNI.

What is said of each operator was found on an emulated processor with AVX2 (``tests/test_sessions.py``): which kernels
saturate, where onnxruntime's option for exact products helps, and where it keeps a model from being opened.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from edgepress.processor import cpu_name
from edgepress.sessions import EXACT_PRODUCTS, REMEDY, UNFUSED, WEIGHT_INPUTS, saturates
from edgepress.targets import Target
from edgepress.targets.legality.graph import Graph, Node, Value

_IN_QDQ = {"MatMul", "Gemm", "Conv"}
_ROUND_X = {"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}  # to uint8, inside
_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"}
_SAFE = 64  # 2 · 255 · 64 fits into 16 bits
_FIRST_UNKNOWN = {"QLinearMatMul": 21}  # opset from which onnxruntime 1.31's option leaves an operator as it is


def saturating_products(target: Target, model: onnx.ModelProto, graphs: Sequence[Graph]) -> Iterator[str]:
    """Yield a sentence for each operator and remedy: how many of its products saturate, where, and what to do."""
    if not (target.is_cpu and target.name.startswith("x86")):
        return
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = [pair for graph in graphs for pair in _products_of(graph, tensors)]
    readers = Counter(weight.name for _, weight in found)
    groups: dict[tuple[str, str], int] = {}
    for node, weight in found:
        key = node.op, _remedy(node, weight, shared=readers[weight.name] > 1)
        groups[key] = groups.get(key, 0) + 1
    here = f"this processor ({cpu_name()}) is {'one' if saturates() else 'none of them'}"
    for (op, remedy), count in groups.items():
        yield (
            f"{count} × {op} multiply uint8 by int8: on CPUs with AVX2 and no VNNI sums saturate at 16 bits in a plain "
            f"onnxruntime session, which changes results; {here}; {remedy}"
        )


def _products_of(graph: Graph, tensors: Mapping[str, onnx.TensorProto]) -> Iterator[tuple[Node, Value]]:
    """Nodes that multiply uint8 by int8 in integers, each with its weight."""
    makers = {value.name: node for node in graph.nodes for value in node.outputs if value}
    for node in graph.nodes:
        if node.op not in WEIGHT_INPUTS:
            continue
        x, weight = node.input(0), _unmoved(node.input(WEIGHT_INPUTS[node.op]), makers)
        if x is None or weight is None or not _mixes_signs(node, x, weight):
            continue
        if weight.dequantized and (maker := makers.get(weight.name)):
            weight = maker.input(0) or weight
        if not (_is_depthwise(node, weight) or _is_small(weight, tensors)):
            yield node, weight


def _unmoved(value: Value | None, makers: Mapping[str, Node]) -> Value | None:
    """The value before it was transposed or reshaped, which onnxruntime does to constants first."""
    while value is not None and value.name in makers and makers[value.name].op in _MOVES:
        value = makers[value.name].input(0)
    return value


def _mixes_signs(node: Node, x: Value, weight: Value) -> bool:
    """Whether a kernel is given uint8 and int8.

    Between QuantizeLinear and DequantizeLinear that is so for int8 activations too, which onnxruntime makes uint8 on
    x86-64, and not for weights that are computed, which it makes uint8 as well.
    """
    if node.op not in _IN_QDQ:
        return weight.type == "tensor(int8)" and (node.op in _ROUND_X or x.type == "tensor(uint8)")
    by_codes = x.dequantized and x.stored in ("tensor(uint8)", "tensor(int8)")
    return by_codes and weight.dequantized and weight.constant and weight.stored == "tensor(int8)"


def _is_depthwise(node: Node, weight: Value) -> bool:
    """Whether each channel is convolved alone, for which there is a kernel with sums of 32 bits."""
    shape = weight.shape or ()
    return (
        node.op in ("Conv", "QLinearConv")
        and len(shape) > 1
        and shape[1] == 1
        and node.attribute("group", 1) == shape[0]
    )


def _is_small(weight: Value, tensors: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether every weight is known to be within 7 bits."""
    tensor = weight.data or tensors.get(weight.name)
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    try:
        codes = onnx.numpy_helper.to_array(tensor)
    except ValueError:  # its bytes and its shape disagree
        return False
    return codes.size == 0 or int(np.abs(codes.astype(np.int16)).max()) <= _SAFE


def _remedy(node: Node, weight: Value, *, shared: bool) -> str:
    in_qdq = node.op in _IN_QDQ
    if not weight.constant or node.version >= _FIRST_UNKNOWN.get(node.op, node.version + 1):
        why = "its int8 input is computed" if not weight.constant else f"of opset {node.version} it is left as it is"
        return f"{EXACT_PRODUCTS}=1 does not help, as {why}; store that input as uint8, with its zero point 128 higher"
    if shared and in_qdq:
        return (
            f"onnxruntime cannot open it with {EXACT_PRODUCTS}=1, as nodes share a weight; use {UNFUSED}=1, which "
            "computes it in float32, as edgepress does"
        )
    if node.op == "DynamicQuantizeLSTM":
        return f"onnxruntime cannot open it with {EXACT_PRODUCTS}=1; store weights as uint8 or in 7 bits"
    external = "" if weight.data is not None or not weight.external else ", unless they are already"
    return REMEDY + external
