"""Which of a bundle's graphs a user's own session would compute wrongly on this processor.

On x86-64 with AVX2 and no VNNI a plain onnxruntime session adds products of uint8 by int8 up in 16 bits (see
:mod:`edgepress.sessions`, whose sessions do not). ``edgepress check --target x86-cpu`` looks at models more closely,
on machines that have onnx.
"""

from collections.abc import Mapping
from pathlib import Path

from edgepress.runtime.graph_file import protobuf as pb
from edgepress.runtime.graph_file.products import Node, read_node, read_tensor
from edgepress.sessions import IN_QDQ, REMEDY, WEIGHT_INPUTS, saturates

_INT8 = 3  # TensorProto.DataType


def saturation_warnings(bundle: Path) -> tuple[str, ...]:
    """A sentence for each graph of a bundle whose products saturate in a plain session here; none where none do."""
    if not saturates():
        return ()
    found = {path: count_products(path) for path in sorted(bundle.rglob("*.onnx")) if path.is_file()}
    return tuple(
        f"{path.relative_to(bundle)}: in a plain onnxruntime session on this processor (AVX2 without VNNI) sums of "
        f"{count} products of uint8 by int8 saturate; {REMEDY}"
        for path, count in found.items()
        if count
    )


def count_products(path: Path) -> int:
    """Nodes of an ONNX file that multiply by a constant int8 weight in integers; 0 for a file that is no ONNX model."""
    try:
        graph = pb.parse(next(pb.all_bytes(pb.parse(path.read_bytes()), 7), b""))
        nodes = [read_node(value) for value in pb.all_bytes(graph, 1)]
        tensors = [read_tensor(value) for value in pb.all_bytes(graph, 5)]
    except (OSError, ValueError):
        return 0
    int8 = {tensor.name for tensor in tensors if tensor.data_type == _INT8}
    makers = {name: node for node in nodes for name in node.outputs}
    return sum(_multiplies_int8(node, int8, makers) for node in nodes)


def _multiplies_int8(node: Node, int8: set[str], makers: Mapping[str, Node]) -> bool:
    index = WEIGHT_INPUTS.get(node.op)
    if index is None or index >= len(node.inputs):
        return False
    weight = node.inputs[index]
    if node.op not in IN_QDQ:
        return weight in int8
    maker, x_maker = makers.get(weight), makers.get(node.inputs[0])
    by_codes = maker is not None and x_maker is not None and maker.op == x_maker.op == "DequantizeLinear"
    return by_codes and maker is not None and maker.inputs[0] in int8
