"""How much of a model's work a node is: multiply-adds of products and convolutions, where shapes are known."""

from collections.abc import Callable, Mapping
from math import prod

from edgepress.onnx_graph.view import Node, Value


def multiply_adds(node: Node) -> int:
    """Multiply-adds of one run of ``node``; 0 of what is no product or convolution, and where a size is not known."""
    count = _COUNTS.get(node.op)
    return 0 if count is None else count(node)


def _size(value: Value | None) -> int:
    """How many elements a value has, 0 where that is not known."""
    if value is None or value.shape is None:
        return 0
    return prod(size or 0 for size in value.shape)


def _made(node: Node) -> int:
    return _size(node.outputs[0]) if node.outputs else 0


def _convolution(weight: int) -> Callable[[Node], int]:
    """Each element of the output is a sum over the channels of a group and the kernel: a row of the weight."""

    def count(node: Node) -> int:
        found = node.input(weight)
        return _made(node) * (_size(found) // found.shape[0]) if found and found.shape and found.shape[0] else 0

    return count


def _transposed(node: Node) -> int:
    """Each element of the input adds to a row of the weight's elements."""
    weight = node.input(1)
    return (
        _size(node.input(0)) * (_size(weight) // weight.shape[0]) if weight and weight.shape and weight.shape[0] else 0
    )


def _product(node: Node) -> int:
    """Each element of the output is a sum along the last axis of the first factor, or the other if it is transposed."""
    left = node.input(0)
    if left is None or not left.shape:
        return 0
    is_turned = bool(node.attribute("transA", 0)) and len(left.shape) > 1
    return _made(node) * (left.shape[-2 if is_turned else -1] or 0)


def _blocks(node: Node) -> int:
    return _made(node) * int(node.attribute("K", 0))


def _attention(node: Node) -> int:
    """Queries by keys, and weights by values: of heads that come first, or are joined in the last axis."""
    query, key = node.input(0), node.input(1)
    if query is None or key is None or not query.shape or not key.shape or len(key.shape) < 2:
        return 0
    return 2 * _size(query) * (key.shape[-2] or 0)


_COUNTS: Mapping[str, Callable[[Node], int]] = {
    "Conv": _convolution(1),
    "FusedConv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "MatMul": _product,
    "Gemm": _product,
    "FusedMatMul": _product,
    "MatMulInteger": _product,
    "MatMulIntegerToFloat": _product,
    "DynamicQuantizeMatMul": _product,
    "QLinearMatMul": _product,
    "QGemm": _product,
    "MatMulNBits": _blocks,
    "Attention": _attention,
    "MultiHeadAttention": _attention,
}
