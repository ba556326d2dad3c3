"""A model as the checks look at it: nodes with the types and shapes of what they read and write, subgraphs included."""

import heapq
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx

from edgepress.onnx_graph.headers import known_operators, schemas
from edgepress.onnx_graph.values import LEFT_OUT, SMALL, elements, inferred
from edgepress.onnx_graph.walk import attribute, normal_domain, opsets_of, read_by, subgraphs

_RANDOM = {"RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout", "QuantizeLinear"}


@dataclass
class Value:
    """One value of a graph. ``type`` is onnxruntime's name for it (``tensor(float)``), ``""`` when it is not known.

    ``shape`` is None when even the rank is unknown; in it, None is a dimension that is not fixed. ``constant`` says
    that it is an initializer or dequantized from one, ``dequantized`` that a DequantizeLinear makes it, from the type
    ``stored`` and with as many ``scales``. ``external`` says that its bytes are in an external data file, ``data``
    holds those of a small constant.
    """

    name: str
    type: str = ""
    shape: tuple[int | None, ...] | None = None
    constant: bool = False
    dequantized: bool = False
    stored: str = ""
    scales: int = 1
    external: bool = False
    data: onnx.TensorProto | None = None

    @property
    def static(self) -> bool:
        """Whether every dimension is fixed."""
        return self.shape is not None and None not in self.shape


@dataclass(frozen=True)
class Node:
    """One node: ``name`` is its path through subgraphs, which no other node of the model has.

    ``version`` is the opset in force; absent inputs are None.
    """

    name: str
    proto: onnx.NodeProto
    version: int
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]

    @property
    def op(self) -> str:
        """The operator's name."""
        return str(self.proto.op_type)

    @property
    def domain(self) -> str:
        """The operator's domain, ``""`` for ONNX's own."""
        return normal_domain(self.proto.domain)

    @property
    def key(self) -> str:
        """Domain and operator as tables write them: ``ai.onnx:Conv``."""
        return f"{self.domain or 'ai.onnx'}:{self.op}"

    @property
    def folded(self) -> bool:
        """Whether onnxruntime computes it once, when the model is loaded, before any provider is asked."""
        return self.op != "DequantizeLinear" and all(value.constant for value in self.outputs if value)

    @property
    def reads(self) -> set[str]:
        """Names of the values that it needs, those of its subgraphs from outside included."""
        return set(read_by(self.proto))

    def input(self, index: int) -> Value | None:
        """The input at ``index``, None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute's value, bytes as text; ``default`` where it is not set or cannot be read."""
        return attribute(self.proto, name, default)


@dataclass
class Graph:
    """The nodes of one graph or subgraph (``path`` is ``""`` for the main one)."""

    path: str
    nodes: list[Node] = field(default_factory=list)


def view(model: onnx.ModelProto) -> list[Graph]:
    """Return the main graph and every subgraph of a model from :func:`~.files.read_model`.

    Shapes come from onnx's shape inference; types that it does not know (onnxruntime's own operators) from the
    operators' schemas.
    """
    graphs: list[Graph] = []
    _add_graph(inferred(model).graph, "", ChainMap(), opsets_of(model), graphs)
    return graphs


def _add_graph(
    graph: onnx.GraphProto,
    path: str,
    outer: ChainMap[str, Value],
    versions: Mapping[str, int],
    found: list[Graph],
) -> list[Value | None]:
    """Add ``graph`` and its subgraphs to ``found``; return its outputs."""
    values = outer.new_child()
    for info in [*graph.input, *graph.value_info, *graph.output]:
        values[info.name] = _value(info)
    for tensor in [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]:
        values[tensor.name] = _constant(tensor)
    here, used = Graph(path), dict[str, int]()
    found.append(here)
    for proto in _in_order(graph):
        inputs = tuple(values.setdefault(name, Value(name)) if name else None for name in proto.input)
        outputs = tuple(values.setdefault(name, Value(name)) if name else None for name in proto.output)
        name = _unique(proto.name or next(filter(None, proto.output), proto.op_type), used)
        node = Node(f"{path}{name}", proto, versions.get(normal_domain(proto.domain), 1), inputs, outputs)
        here.nodes.append(node)
        inner: list[Value | None] = []
        for holder, subgraph in subgraphs(proto):
            inner = _add_graph(subgraph, f"{node.name}/{holder}/", values, versions, found)
        _fill_types(node, inner)
        _mark_constants(node)
    return [values.get(value.name) for value in graph.output]


def _unique(name: str, used: dict[str, int]) -> str:
    """ONNX lets nodes share a name; reports do not: the second ``a`` is ``a#2``."""
    found, count = name, used.get(name, 0)
    while count and found in used:
        count += 1
        found = f"{name}#{count}"
    used[name] = max(count, 1)
    used[found] = used.get(found, 1)
    return found


def _in_order(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield nodes so that each comes after what it reads; onnxruntime sorts files that are not (Kahn's algorithm)."""
    makers = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    users: dict[int, list[int]] = {}
    waiting = []
    for index, node in enumerate(graph.node):
        before = {makers[name] for name in read_by(node) if name in makers}
        waiting.append(len(before))
        for maker in before:
            users.setdefault(maker, []).append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]  # sorted: a heap
    while ready:
        index = heapq.heappop(ready)  # files that are in order stay as they are
        yield graph.node[index]
        for user in users.get(index, []):
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)


def _constant(tensor: onnx.TensorProto) -> Value:
    external = tensor.data_location == onnx.TensorProto.EXTERNAL and tensor.doc_string != LEFT_OUT
    small = tensor if tensor.data_location != onnx.TensorProto.EXTERNAL and elements(tensor) <= SMALL else None
    shape = tuple(tensor.dims)
    return Value(tensor.name, _tensor_type(tensor.data_type), shape, constant=True, external=external, data=small)


def _value(info: onnx.ValueInfoProto) -> Value:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return Value(info.name, _wrapped_type(info.type))
    tensor = info.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            dimension.dim_value if dimension.HasField("dim_value") and dimension.dim_value >= 0 else None
            for dimension in tensor.shape.dim
        )
    return Value(info.name, _tensor_type(tensor.elem_type), shape)


def _wrapped_type(kind: onnx.TypeProto) -> str:
    """Sequences, optionals, maps and sparse tensors as onnxruntime writes them; ``""`` for what it has no name for."""
    inner = kind.WhichOneof("value")
    if inner == "tensor_type":
        return _tensor_type(kind.tensor_type.elem_type)
    if inner == "sparse_tensor_type":
        return _wrapped("sparse_tensor", _tensor_type(kind.sparse_tensor_type.elem_type)[len("tensor(") : -1])
    if inner == "sequence_type":
        return _wrapped("seq", _wrapped_type(kind.sequence_type.elem_type))
    if inner == "optional_type":
        return _wrapped("optional", _wrapped_type(kind.optional_type.elem_type))
    if inner == "map_type":
        key = _tensor_type(kind.map_type.key_type)[len("tensor(") : -1]
        value = _wrapped_type(kind.map_type.value_type)
        return f"map({key},{value})" if key and value else ""
    return ""


def _wrapped(outer: str, inner: str) -> str:
    return f"{outer}({inner})" if inner else ""


def _tensor_type(number: int) -> str:
    """``tensor(float)`` for FLOAT and so on; ``""`` for undefined and unknown numbers."""
    names = onnx.TensorProto.DataType
    if number in names.values() and number != onnx.TensorProto.UNDEFINED:
        return f"tensor({names.Name(number).lower()})"
    return ""


def _mark_constants(node: Node) -> None:
    """Note which values are known when the model is loaded: constants, what follows from them alone, fixed shapes."""
    if node.op == "Constant":
        for value in filter(None, node.outputs):
            value.constant, value.data = True, node.attribute("value")
    if node.op == "DequantizeLinear" and node.outputs and (made := node.outputs[0]):
        source = node.input(0)
        made.dequantized = True
        made.constant = bool(source and source.constant)
        made.stored = source.type if source else ""
        scale = node.input(1)
        made.scales = prod(scale.shape) if scale and scale.shape and scale.static else 1  # type: ignore[arg-type]
    elif node.inputs and not any(subgraphs(node.proto)):
        present = [value for value in node.inputs if value]
        known = all(value.constant and not value.dequantized for value in present)
        if known or (node.key in {"ai.onnx:Shape", "ai.onnx:Size"} and present and present[0].static):
            for value in filter(None, node.outputs):
                value.constant = node.op not in _RANDOM


def schema_of(node: Node) -> Any | None:
    """onnxruntime's schema in force for a node, None where it has none."""
    fitting = [found for found in schemas().get((node.domain, node.op), []) if found.since_version <= node.version]
    return fitting[-1] if fitting else None


def since_version(node: Node) -> int:
    """The opset version in which the node's operator last changed, as far as the model's opset goes."""
    versions = [version for version in known_operators().get((node.domain, node.op), ()) if version <= node.version]
    return versions[-1] if versions else node.version


def formal_types(declared: Sequence[Any], values: Sequence[Value | None]) -> Iterator[tuple[str, Value]]:
    """Pair each present value with the type parameter (``T``) or type of the formal input or output that it fills."""
    if not declared:
        return
    for index, value in enumerate(values):
        formal = declared[min(index, len(declared) - 1)]
        if value is not None and (index < len(declared) or formal.isHomogeneous):
            yield formal.typeStr, value


def _fill_types(node: Node, inner: Sequence[Value | None]) -> None:
    """Give outputs whose type shape inference did not find the type that the schema binds them to."""
    unknown = [value for value in node.outputs if value is not None and not value.type]
    if not unknown:
        return
    if node.op in {"If", "Loop", "Scan"} and not node.domain:
        for value, made in zip(reversed(node.outputs), reversed(inner), strict=False):
            if value is not None and made is not None:
                value.type = value.type or made.type
        return
    if node.op == "Cast" or node.attribute("dtype") is not None:
        number = node.attribute("to" if node.op == "Cast" else "dtype")
        unknown[0].type = _tensor_type(number) if isinstance(number, int) else ""
        return
    schema = schema_of(node)
    if schema is None:
        return
    bound = {parameter: value.type for parameter, value in formal_types(schema.inputs, node.inputs) if value.type}
    for parameter, value in formal_types(schema.outputs, node.outputs):
        if not value.type:
            value.type = bound.get(parameter, parameter if "(" in parameter else "")
