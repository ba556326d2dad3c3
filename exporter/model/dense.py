"""A model of dense layers, as an ONNX file has it: products with constant matrices, and functions of single values.

::

    x ─ Gemm or MatMul (W, b) ─ Relu ─ MatMul (V) ─ Add (c) ─ Sigmoid ─ y
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgepress.errors import InputError
from edgepress.exporter.model.description import Layer, Rotation, Weight
from edgepress.exporter.source.part import Part
from edgepress.onnx_graph.values import constant_of
from edgepress.onnx_graph.view import Node, Value, view
from edgepress.onnx_graph.walk import attributes_of
from edgepress.states import State

# Functions of each value by itself, whose meaning is the same in every opset from 13 on.
_FUNCTIONS = ("Elu", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus")
FUNCTIONS = frozenset((*_FUNCTIONS, "Softsign", "Tanh"))
_OPSETS = range(13, 25)
_FLOAT = "tensor(float)"
_REMEDY = (
    "of ONNX files edgepress exports those of dense layers alone: Gemm and MatMul with constant weights, Add of a "
    f"constant vector, {', '.join(sorted(FUNCTIONS))}, in float32. For a language model name the checkpoint that it "
    "was made from; `edgepress check FILE --target …` says of any ONNX file where it would run"
)


@dataclass(frozen=True)
class Edge:
    """An input or output of the model, float32; dimensions that are not fixed have names."""

    name: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Step:
    """One node, y = f(x): a product with ``weight``, to which ``bias`` is added; without a weight ``op`` of x.

    A step without both applies ``op`` with ``attributes``; one with a bias alone adds it.
    """

    op: str
    x: str
    y: str
    weight: Weight | None = None
    bias: Weight | None = None
    attributes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Dense:
    """A model of dense layers: its inputs, steps in the order in which they are computed, and outputs."""

    inputs: tuple[Edge, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Edge, ...]
    model_type: str = "onnx"
    context_length: int = 0
    layers: tuple[Layer, ...] = ()
    tied: bool = False
    rotation: Rotation | None = None
    long_from: int | None = None

    def weights(self) -> list[Weight]:
        """Matrices and biases, each once, in the order of the steps."""
        found = [weight for step in self.steps for weight in (step.weight, step.bias) if weight is not None]
        return list({weight.name: weight for weight in found}.values())

    def states(self) -> tuple[State, ...]:
        """Such a model carries nothing from one call to the next."""
        return ()


def read_dense(path: Path, model: onnx.ModelProto, tensors: Mapping[str, onnx.TensorProto]) -> Dense:
    """Read what ``model`` of the file ``path`` is made of; ``tensors`` are its constants by name.

    Raises:
        InputError: it has anything but dense layers; the message names the node or value, and says what to do.

    """
    main, *inner = view(model)
    reader = _Reader(path, tensors)
    nodes = [node for graph in (*inner, main) for node in graph.nodes]
    steps = tuple(reader.step(node) for node in nodes if not _is_constant(node))
    if not any(step.weight is not None for step in steps):
        raise InputError(f"{path} has no product with a constant matrix; {_REMEDY}")
    seen: dict[str, Weight] = {}
    for weight in (weight for step in steps for weight in (step.weight, step.bias) if weight is not None):
        if seen.setdefault(weight.name, weight) != weight:
            raise InputError(f"{path}: {weight.name} is used as it is and transposed; store it twice")
    made = {step.y for step in steps}
    outputs = tuple(reader.edge(value) for value in model.graph.output)
    if absent := [edge.name for edge in outputs if edge.name not in made]:
        raise InputError(f"{path}: the output {absent[0]} is an input or a constant; {_REMEDY}")
    inputs = tuple(reader.edge(value) for value in model.graph.input if value.name not in tensors)
    return Dense(inputs, steps, outputs)


def _is_constant(node: Node) -> bool:
    return node.key == "ai.onnx:Constant" and constant_of(node.proto) is not None


class _Reader:
    def __init__(self, path: Path, tensors: Mapping[str, onnx.TensorProto]) -> None:
        self._path, self._tensors = path, tensors

    def edge(self, value: onnx.ValueInfoProto) -> Edge:
        """An input or output, whose type must be float32 and whose rank must be known."""
        tensor = value.type.tensor_type
        if tensor.elem_type != onnx.TensorProto.FLOAT or not tensor.HasField("shape"):
            raise InputError(f"{self._path}: {value.name} is no float32 tensor of known rank; {_REMEDY}")
        dims = (
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}_{axis}"
            for axis, dim in enumerate(tensor.shape.dim)
        )
        return Edge(value.name, tuple(dims))

    def step(self, node: Node) -> Step:
        """The step that a node is."""
        if node.version not in _OPSETS:
            raise self._refusal(node, f"opset {node.version}, and those from {_OPSETS[0]} to {_OPSETS[-1]} are read")
        if len(node.proto.output) != 1:
            raise self._refusal(node, f"with {len(node.proto.output)} outputs")
        y = node.proto.output[0]
        if node.key in ("ai.onnx:Gemm", "ai.onnx:MatMul"):
            return self._product(node, y)
        first, second = node.input(0), node.input(1)
        if node.key == "ai.onnx:Add":
            constant, x = (first, second) if first is not None and first.name in self._tensors else (second, first)
            return Step("Add", self._value(node, x), y, bias=self._vector(node, constant))
        if node.domain or node.op not in FUNCTIONS or second is not None:
            raise self._refusal(node, "something else")
        return Step(node.op, self._value(node, first), y, attributes=attributes_of(node.proto))

    def _product(self, node: Node, y: str) -> Step:
        settings = {name: node.attribute(name, 1) for name in ("alpha", "beta")} | {
            "transA": node.attribute("transA", 0)
        }
        if settings != {"alpha": 1, "beta": 1, "transA": 0}:
            raise self._refusal(node, "with alpha, beta or transA, which belong into the weights")
        x, matrix, bias = node.input(0), node.input(1), node.input(2)
        tensor = None if matrix is None else self._tensors.get(matrix.name)
        if matrix is None or tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2:
            raise self._refusal(node, "with a second factor that is no constant float32 matrix")
        if x is None or x.shape is None or len(x.shape) < 2 or 0 in tensor.dims:
            raise self._refusal(node, "of a value whose rank is not known to be 2 or more, or with an empty matrix")
        transposed = not node.attribute("transB", 0)
        rows, columns = (int(size) for size in (reversed(tensor.dims) if transposed else tensor.dims))
        part = Part(matrix.name, 0, rows, transposed)
        weight = Weight(matrix.name, "linear", (rows, columns), (part,))
        added = None if bias is None else self._vector(node, bias, rows)
        return Step(node.op, self._value(node, x), y, weight, added)

    def _vector(self, node: Node, value: Value | None, size: int | None = None) -> Weight:
        """A constant that is added to each row."""
        tensor = None if value is None else self._tensors.get(value.name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 1 or 0 in tensor.dims:
            raise self._refusal(node, "of something that is no constant float32 vector")
        if size not in (None, tensor.dims[0]):
            raise self._refusal(node, f"of {tensor.dims[0]} numbers to rows of {size}")
        count = int(tensor.dims[0])
        return Weight(tensor.name, "bias", (count,), (Part(tensor.name, 0, count),))

    def _value(self, node: Node, value: Value | None) -> str:
        """The name of what a step reads, which must be computed float32."""
        if value is None or value.type != _FLOAT or value.name in self._tensors:
            raise self._refusal(node, "of something that is no computed float32 value")
        return value.name

    def _refusal(self, node: Node, what: str) -> InputError:
        return InputError(f"{self._path}: node {node.name} is {node.key}: {what}; {_REMEDY}")
