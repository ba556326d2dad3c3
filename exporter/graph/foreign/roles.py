"""What the weights of a float graph are for, read from the nodes that read them: the description that is planned.

::

    W ─ MatMul, Gemm           linear       codes by blocks or by row, in the kernels that there are for them
    W ─ Gather                 embedding    rows are looked up in codes
    W ─ Conv, ConvTranspose    convolution  ┐
    W ─ … ─ LSTM, GRU, RNN     recurrent    │ floats are made of codes when the graph is opened; an LSTM that reads
                                            │ them as they are may compute in integers
    W ─ MatMul of batches …    linear       ┘
    gains, biases, the rest                 kept

A weight may pass nodes that only move it (Slice, Concat, Transpose …) on its way, into the graphs inside nodes too.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import onnx
from onnx import TensorProto

from edgepress.bundle.states import State
from edgepress.exporter.graph.foreign.normal import SMALL
from edgepress.exporter.graph.foreign.recurrent import why_float
from edgepress.exporter.model.description import Layer, Rotation
from edgepress.exporter.model.parts.primitives import Kind, Weight
from edgepress.exporter.source.part import Part
from edgepress.onnx_graph.values import elements
from edgepress.onnx_graph.walk import all_nodes, attribute, graphs, normal_domain

_CONVOLUTIONS = ("Conv", "ConvTranspose", "FusedConv", "DeformConv")
_RECURRENT = ("GRU", "LSTM", "RNN")
_PRODUCTS = ("FusedMatMul", "Gemm", "MatMul")
_KINDS: Mapping[tuple[str, int], Kind] = {  # by operator and input
    **{(op, 1): "convolution" for op in _CONVOLUTIONS},
    **{(op, index): "recurrent" for op in _RECURRENT for index in (1, 2)},
    **{(op, 3): "bias" for op in _RECURRENT},
    **{(op, index): "linear" for op in _PRODUCTS for index in (0, 1)},
    ("Attention", 1): "linear",  # onnxruntime's, with the weights of queries, keys and values in one
    ("Gather", 0): "embedding",
}
_OF_VECTORS: Mapping[str, Kind] = {
    **dict.fromkeys(("Add", "Attention", "BiasGelu", "FastGelu", "Gemm", "Sub", *_CONVOLUTIONS), "bias"),
    **dict.fromkeys(("Div", "Mul", "PRelu"), "norm"),
}
_SCALED = (
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_MOVES = (
    *("Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"),
    "Unsqueeze",
)


@dataclass(frozen=True)
class Use:
    """A node that reads a weight as input ``index``; ``moved`` says that other nodes moved it on its way there.

    ``turned`` says that the one node on its way is the transposition of a matrix.
    """

    node: onnx.NodeProto
    index: int
    moved: bool = False
    turned: bool = False


@dataclass(frozen=True)
class Foreign:
    """A graph of any model: its weights, each once, in the order in which the graph lists them."""

    listed: tuple[Weight, ...]
    dims: Mapping[str, tuple[int, ...]]
    model_type: str
    context_length: int = 0
    layers: tuple[Layer, ...] = ()
    tied: bool = False
    rotation: Rotation | None = None
    long_from: int | None = None
    in_float: Mapping[str, str] = field(default_factory=dict)  # why, of weights of recurrent nodes that have to be

    def weights(self) -> list[Weight]:
        """Every float constant of more than a few numbers."""
        return list(self.listed)

    def states(self) -> tuple[State, ...]:
        """Such a model carries nothing from one call to the next but what its inputs and outputs are."""
        return ()


def describe(model: onnx.ModelProto, model_type: str) -> Foreign:
    """Describe a model in the form of :mod:`.normal`."""
    uses, listed = find_uses(model), []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and elements(tensor) > SMALL:
            listed.append(_weight(tensor, uses.get(tensor.name, [])))
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    recurrent = [weight.name for weight in listed if weight.kind == "recurrent"]
    why = {name: reason for name in recurrent if (reason := why_in_float(uses[name], dims[name]))}
    return Foreign(tuple(listed), dims, model_type, in_float=why)


def natural(weight: Weight) -> Weight:
    """The same weight with the rows that the graph stores, which floats keep."""
    (part,) = weight.parts
    if not part.transposed:
        return weight
    rows, columns = weight.shape
    kept = Part(part.tensor, 0, columns, leading=part.leading)
    return Weight(weight.name, weight.kind, (columns, rows), (kept,), in_float=weight.in_float, stepped=weight.stepped)


def find_uses(model: onnx.ModelProto) -> dict[str, list[Use]]:
    """Which nodes use each initializer of the main graph, past those that move it and nothing computed with it."""
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    constants = {tensor.name for graph in graphs(model.graph) for tensor in graph.initializer}
    for node in all_nodes(model.graph.node):
        if node.op_type == "Constant" or (node.input and constants.issuperset(filter(None, node.input))):
            constants.update(filter(None, node.output))
        for index, name in enumerate(node.input):
            if name:
                readers[name].append((node, index))
    given = {value.name for graph in graphs(model.graph) for value in graph.output}

    def follow(name: str, moves: int, turned: bool) -> Iterator[Use]:
        for node, index in readers[name]:
            if _moves(node, index) and constants.issuperset(node.output):
                turn = node.op_type == "Transpose" and list(attribute(node, "perm", [1, 0])) == [1, 0]
                for output in filter(None, node.output):
                    yield from follow(output, moves + 1, turn and not moves)
            else:
                yield Use(node, index, moves > 0, turned and moves == 1)
        if name in given:
            yield Use(onnx.NodeProto(op_type="output"), 0, True)

    return {tensor.name: list(follow(tensor.name, 0, False)) for tensor in model.graph.initializer}


def _moves(node: onnx.NodeProto, index: int) -> bool:
    if normal_domain(node.domain) or node.op_type not in _MOVES:
        return False
    if node.op_type == "Cast" and attribute(node, "to", TensorProto.FLOAT) not in _FLOATS:
        return False  # whole numbers are made of it, which are no weights
    return index == 0 or node.op_type == "Concat"


def _weight(tensor: TensorProto, uses: list[Use]) -> Weight:
    kinds = {_kind(use, tensor) for use in uses}
    kind: Kind = next(iter(kinds)) if len(kinds) == 1 else "constant"
    if kinds == {"embedding", "linear"}:
        kind = "embedding"
    dims = tuple(tensor.dims)
    if len(dims) < 2 or kind in ("norm", "bias", "constant"):
        kind = kind if kind in ("norm", "bias") else "constant"
        rows = dims[0] if dims else 1
        shape = (rows, prod(dims[1:])) if len(dims) > 1 else (rows,)
        return Weight(tensor.name, kind, shape, (Part(tensor.name, 0, rows),))
    turns = {_rows_last(use) for use in uses}
    in_float = len(dims) != 2 or len(turns) != 1 or None in turns
    transposed = not in_float and turns == {True}
    leading = len(dims) - 1 if kind in ("recurrent", "linear") else 1
    rows, columns = prod(dims[:leading]), prod(dims[leading:])
    if transposed:
        rows, columns = columns, rows
    part = Part(tensor.name, 0, rows, transposed, leading=leading)
    stepped = kind == "recurrent" and not why_in_float(uses, dims)
    return Weight(tensor.name, kind, (rows, columns), (part,), in_float=in_float, stepped=stepped)


def why_in_float(uses: Sequence[Use], dims: Sequence[int]) -> str:
    """Why a weight of recurrent nodes is read in floats, whatever a recipe says; "" where it need not be."""
    why = next(filter(None, (why_float(use.node, dims) for use in uses)), "")
    return why or ("other nodes move it on its way" if any(use.moved for use in uses) else "")


def _kind(use: Use, tensor: TensorProto) -> Kind:
    """What one node makes of a weight."""
    op, index = use.node.op_type, use.index
    found = _KINDS.get((op, index), "constant")
    if op == "Gather" and attribute(use.node, "axis", 0):
        return "constant"
    if op == "Einsum":
        return "linear"
    if op in _SCALED:
        return "norm"
    if found == "constant" and sum(size > 1 for size in tensor.dims) <= 1:
        return _OF_VECTORS.get(op, "constant")
    return found


def _rows_last(use: Use) -> bool | None:
    """Whether a product's weight, or a table, is stored (columns, rows); None where no kernel takes codes of it."""
    if normal_domain(use.node.domain) or (use.moved and not use.turned):
        return None
    op = use.node.op_type
    if op == "Gather" and use.index == 0 and not use.moved:
        return False
    if op == "MatMul" and use.index == 1:
        return not use.turned
    if op == "Gemm" and use.index == 1:
        return bool(attribute(use.node, "transB", 0)) == use.turned
    return None
