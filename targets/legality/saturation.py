"""Products of uint8 by int8, whose sums saturate in a plain session on x86-64 with AVX2 and no VNNI.

What is said of each operator was found on an emulated processor with AVX2 (``tests/test_sessions.py``): which kernels
saturate, where onnxruntime's option for exact products helps, and where it keeps a model from being opened.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.onnx_graph.view import Graph, Node, Value
from edgepress.processor import cpu_name
from edgepress.sessions import EXACT_PRODUCTS, IN_QDQ, REMEDY, UNFUSED, WEIGHT_INPUTS, saturates
from edgepress.targets import Target

Read = Callable[[onnx.TensorProto], NDArray[Any]]
_ROUND_X = {"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}  # to uint8, inside
_ZERO_POINTS = {  # which input has a weight's zero point
    **{"MatMulInteger": 3, "DynamicQuantizeMatMul": 3, "MatMulIntegerToFloat": 5, "QGemm": 5, "QLinearMatMul": 5},
    **{"QLinearConv": 5, "QAttention": 7, "DynamicQuantizeLSTM": 9},
}
_MORE_WEIGHTS = {"DynamicQuantizeLSTM": (2,)}  # inputs beside that of WEIGHT_INPUTS
_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"}
_SAFE = 64  # 2 · 255 · 64 fits into 16 bits
_BY_PAIRS = {  # along which axis of a weight the products of 2j and 2j + 1 are added up
    **{"MatMulInteger": 0, "MatMulIntegerToFloat": 0, "DynamicQuantizeMatMul": 0, "DynamicQuantizeLSTM": 1},
}
_FIRST_UNKNOWN = {"QLinearMatMul": 21}  # opset from which onnxruntime 1.31's option leaves an operator as it is


def saturating_products(
    target: Target, model: onnx.ModelProto, graphs: Sequence[Graph], read: Read = onnx.numpy_helper.to_array
) -> Iterator[str]:
    """Yield a sentence for each operator and remedy: how many of its products saturate, where, and what to do.

    ``read`` gives the values of a tensor, wherever they lie.
    """
    if not (target.is_cpu and target.name.startswith("x86")):
        return
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = [product for graph in graphs for product in _products_of(graph, tensors, read)]
    fails = _why_the_option_fails(found, graphs, Counter(value.name for value in model.graph.output))
    groups = Counter((product.node.op, _remedy(product, fails)) for product in found)
    here = f"this processor ({cpu_name()}) is {'one' if saturates() else 'none of them'}"
    for (op, remedy), count in groups.items():
        yield (
            f"{count} × {op} multiply uint8 by int8: on CPUs with AVX2 and no VNNI sums saturate at 16 bits in a plain "
            f"onnxruntime session, which changes results; {here}; {remedy}"
        )


@dataclass(frozen=True)
class _Product:
    """A node that multiplies uint8 by int8, its weight as it is stored, and the DequantizeLinear between them."""

    node: Node
    weight: Value
    maker: Node | None


def _products_of(graph: Graph, tensors: Mapping[str, onnx.TensorProto], read: Read) -> Iterator[_Product]:
    """Nodes that multiply uint8 by int8 in integers."""
    makers = {value.name: node for node in graph.nodes for value in node.outputs if value}
    for node in graph.nodes:
        if node.op in WEIGHT_INPUTS:
            places = (WEIGHT_INPUTS[node.op], *_MORE_WEIGHTS.get(node.op, ()))
            found = (_product_of(node, node.input(place), makers, tensors, read) for place in places)
            yield from islice(filter(None, found), 1)


def _product_of(
    node: Node,
    stored: Value | None,
    makers: Mapping[str, Node],
    tensors: Mapping[str, onnx.TensorProto],
    read: Read,
) -> _Product | None:
    """The product of a node and the weight ``stored``; None where its sums fit, or are of other types."""
    x, weight = node.input(0), _unmoved(stored, makers)
    if x is None or weight is None or not _mixes_signs(node, x, weight):
        return None
    maker = makers.get(weight.name) if weight.dequantized else None
    weight = (maker.input(0) if maker else None) or weight
    tensor = weight.data or tensors.get(weight.name)
    codes, axis = None if tensor is None else _codes(tensor, read), _BY_PAIRS.get(node.op)
    if codes is not None and weight is not stored:
        perm = _turned_by(stored, weight, makers)
        codes, axis = (codes, None) if perm is None else (codes.transpose(perm), axis)
    fits = codes is not None and _fits(codes, axis)
    left = _is_depthwise(node, weight) or fits or _is_left_in_float(node, maker)
    return None if left else _Product(node, weight, maker)


def _unmoved(value: Value | None, makers: Mapping[str, Node]) -> Value | None:
    """The value before it was transposed or reshaped, which onnxruntime does to constants first."""
    while value is not None and value.name in makers and makers[value.name].op in _MOVES:
        value = makers[value.name].input(0)
    return value


def _turned_by(value: Value | None, weight: Value, makers: Mapping[str, Node]) -> Sequence[int] | None:
    """The axes by which a Transpose alone makes a value of a weight; None where that is not how it is made."""
    node = makers.get(value.name) if value is not None else None
    if node is None or node.op != "Transpose" or node.input(0) is not weight:
        return None
    perm = node.attribute("perm", None)
    return perm if isinstance(perm, (list, tuple)) else None


def _mixes_signs(node: Node, x: Value, weight: Value) -> bool:
    """Whether a kernel is given uint8 and int8.

    Between QuantizeLinear and DequantizeLinear that is so for int8 activations too, which onnxruntime makes uint8 on
    x86-64, and not for weights that are computed, which it makes uint8 as well.
    """
    if node.op not in IN_QDQ:
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


def _codes(tensor: onnx.TensorProto, read: Read) -> NDArray[np.int16] | None:
    """The values of a weight, None where they are not known."""
    try:
        return read(tensor).astype(np.int16)
    except ValueError:  # its bytes and its shape disagree
        return None


def _fits(codes: NDArray[np.int16], axis: int | None) -> bool:
    """Whether every weight is within 7 bits, or of matrices every pair of rows that is added up, along ``axis``."""
    if axis is not None and codes.ndim == axis + 2:
        starts = np.arange(0, codes.shape[axis], 2)
        codes = np.add.reduceat(codes, starts, axis=axis) if codes.size else codes
        return codes.size == 0 or int(np.abs(codes).max()) <= 2 * _SAFE
    return codes.size == 0 or int(np.abs(codes).max()) <= _SAFE


def _why_the_option_fails(found: Sequence[_Product], graphs: Sequence[Graph], outputs: Counter[str]) -> str:
    """Why no session with the option computes the model, whichever of its nodes is to blame; ``""`` when one does.

    Each node that reads a weight or what is dequantized from it gets a copy, and copies of one have one name.
    """
    read = Counter(outputs)
    read.update(value.name for graph in graphs for node in graph.nodes for value in node.inputs if value)
    uses: Counter[str] = Counter()
    for user in {id(product.maker or product.node): product for product in found}.values():
        maker = user.maker
        copies = max(read[made.name] for made in maker.outputs if made) if maker else 1
        points = (maker.input(2) if maker else user.node.input(_ZERO_POINTS[user.node.op])) or user.weight
        uses.update(dict.fromkeys({user.weight.name, points.name}, copies))
        uses[user.weight.name] = max(uses[user.weight.name], 0 if maker else read[user.weight.name])
    if max(uses.values(), default=0) > 1:
        return "nodes share a weight or its zero point"
    for graph in graphs:
        makers = {value.name: node for node in graph.nodes for value in node.outputs if value}
        for node in graph.nodes:
            weight = node.input(1) if node.op in IN_QDQ else None
            if weight is not None and _is_left_in_float(node, makers.get(weight.name)):
                return f"the weight of a {node.op} has scales by channel and no zero points"
    return ""


def _remedy(product: _Product, fails: str) -> str:
    node, weight = product.node, product.weight
    if not weight.constant or node.version >= _FIRST_UNKNOWN.get(node.op, node.version + 1):
        why = "its int8 input is computed" if not weight.constant else f"of opset {node.version} it is left as it is"
        return f"{EXACT_PRODUCTS}=1 does not help, as {why}; store that input as uint8, with its zero point 128 higher"
    if fails and product.maker is None:
        return f"onnxruntime fails with {EXACT_PRODUCTS}=1, as {fails}; give each its own, or store weights as uint8"
    if fails:
        return (
            f"onnxruntime fails with {EXACT_PRODUCTS}=1, as {fails}; use {UNFUSED}=1, which computes products between "
            "roundings in float32, as edgepress does"
        )
    if node.op == "DynamicQuantizeLSTM":
        return f"onnxruntime fails with {EXACT_PRODUCTS}=1; store weights as uint8 or in 7 bits"
    return REMEDY


def _is_left_in_float(node: Node, maker: Node | None) -> bool:
    """Whether onnxruntime multiplies in float32: a weight of MatMul or Gemm by channel, without zero points.

    Its option for exact products then gives such a weight one zero point for all channels, and running it fails.
    """
    if maker is None or maker.op != "DequantizeLinear" or node.op not in ("MatMul", "Gemm"):
        return False
    codes, scale = maker.input(0), maker.input(1)
    by_channel = scale is not None and scale.shape not in ((), (1,))
    return by_channel and maker.input(2) is None and codes is not None and codes.type == "tensor(int8)"
