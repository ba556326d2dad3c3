"""Bytes of weights that one run of a graph has to load, from the shapes in its file: nothing is measured.

Each constant counts once a run, as it lies in the file, for every operator that reads it; of a table that rows are
taken from, the rows of the run's tokens. A kernel may have packed it anew, and a cache may hold what is read again.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgepress.runtime.graph_file import protobuf as pb
from edgepress.runtime.graph_file.products import Node, Tensor, read_node, read_tensor

_ROWS = {"Gather": {0}, "GatherBlockQuantized": {0, 2, 3}}  # inputs that an operator takes rows of, not all
_NODE, _INITIALIZER = 1, 5  # fields of GraphProto
_ATTRIBUTE, _GRAPH = 5, 6  # of NodeProto, and of AttributeProto
# Bits of a number of each TensorProto.DataType (onnx.proto3); a string has none that could be known.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}


@dataclass(frozen=True)
class Weights:
    """Bytes of constants that a run reads: those of every run, and those more for each token."""

    each_run: int
    each_token: int

    def bytes_of(self, tokens: int) -> int:
        """Bytes of a run of ``tokens`` tokens."""
        return self.each_run + tokens * self.each_token


def weights_of(model: Path) -> Weights:
    """What a run of the graph in the file ``model`` reads of its constants.

    Raises:
        ValueError: it is no ONNX file.

    """
    (graph,) = pb.all_bytes(pb.parse(model.read_bytes()), 7)
    found = {(part.operator, part.constant): part for part in _read_by(pb.parse(graph), {})}
    return Weights(
        each_run=sum(part.size for part in found.values() if not part.is_row),
        each_token=sum(part.size for part in found.values() if part.is_row),
    )


@dataclass(frozen=True)
class _Read:
    """That an operator reads a constant: bytes of all of it, or of one row."""

    operator: str
    constant: str
    size: int
    is_row: bool


def _read_by(graph: pb.Message, outer: Mapping[str, Tensor]) -> Iterator[_Read]:
    """What the nodes of a graph read, those of graphs within them included, whichever of them runs."""
    tensors = {**outer, **{found.name: found for found in map(read_tensor, pb.all_bytes(graph, _INITIALIZER))}}
    for node in map(read_node, pb.all_bytes(graph, _NODE)):
        for index, tensor in ((index, tensors[name]) for index, name in enumerate(node.inputs) if name in tensors):
            size, is_row = _bytes(tensor), index in _ROWS.get(node.op, ())
            yield _Read(node.op, tensor.name, size // max(1, (tensor.shape or [1])[0]) if is_row else size, is_row)
        for inner in _graphs(node):
            yield from _read_by(inner, tensors)


def _graphs(node: Node) -> Iterator[pb.Message]:
    if node.has_graph:
        for attribute in map(pb.parse, pb.all_bytes(node.message, _ATTRIBUTE)):
            yield from map(pb.parse, pb.all_bytes(attribute, _GRAPH))


def _bytes(tensor: Tensor) -> int:
    return tensor.size or math.prod(tensor.shape) * _BITS.get(tensor.data_type, 0) // 8
