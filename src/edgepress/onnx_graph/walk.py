"""Walking through a model: graphs inside nodes, what a node reads, attributes, opsets."""

from collections.abc import Iterable, Iterator
from typing import Any

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """The graphs inside a node (If, Loop, Scan), each with the name of its attribute."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield attribute.name, graph


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the graphs inside its nodes, outermost first."""
    yield graph
    for node in graph.node:
        for _, inner in subgraphs(node):
            yield from graphs(inner)


def scopes(
    graph: onnx.GraphProto, name: str = "", outer: frozenset[str] = frozenset()
) -> Iterator[tuple[str, onnx.GraphProto, frozenset[str]]]:
    """As :func:`graphs`, each with its path and the values that it sees from outside: (path, graph, values)."""
    yield name, graph, outer
    visible = outer | given(graph) | {output for node in graph.node for output in node.output}
    for node in graph.node:
        for attribute, inner in subgraphs(node):
            yield from scopes(inner, f"{name}{node.name or node.op_type}/{attribute}/", visible)


def given(graph: onnx.GraphProto) -> set[str]:
    """Names of the values of a graph that no node makes: inputs and initializers."""
    tensors = (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer))
    return {value.name for value in (*graph.input, *tensors)}


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those of the graphs inside them."""
    for node in nodes:
        yield node
        for _, graph in subgraphs(node):
            yield from all_nodes(graph.node)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, in subgraphs and functions too."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in all_nodes(nodes):
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads: its inputs, and what its subgraphs take from outside themselves."""
    yield from filter(None, node.input)
    yield from read_inside(node)


def read_inside(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the subgraphs of a node take from outside themselves."""
    for _, graph in subgraphs(node):
        own = given(graph) | {output for inner in graph.node for output in inner.output}
        read = (*(name for inner in graph.node for name in read_by(inner)), *(value.name for value in graph.output))
        yield from (name for name in read if name not in own)


def attributes_of(node: onnx.NodeProto, *names: str) -> dict[str, Any]:
    """The attributes of a node (those called ``names``, if any are) as Python values, strings as text.

    What holds nothing that can be read is left out.
    """
    found: dict[str, Any] = {}
    for entry in node.attribute:
        if names and entry.name not in names:
            continue
        try:
            value = onnx.helper.get_attribute_value(entry)
        except ValueError:
            continue
        if value is not None:  # what an attribute without a type has
            found[entry.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """One attribute of a node as :func:`attributes_of` gives it, else ``default``."""
    return attributes_of(node, name).get(name, default)


def operand(node: onnx.NodeProto, index: int) -> str:
    """The name of an input, "" when it is left out."""
    return node.input[index] if index < len(node.input) else ""


def result(node: onnx.NodeProto, index: int) -> str:
    """The name of an output, "" when it is left out."""
    return node.output[index] if index < len(node.output) else ""


def normal_domain(domain: str) -> str:
    """ONNX's own domain has two names, ``""`` and ``ai.onnx``; return the first for both."""
    return "" if domain == "ai.onnx" else domain


def opsets_of(message: onnx.ModelProto | onnx.FunctionProto) -> dict[str, int]:
    """The opset version of each domain; ONNX's own domain is ``""``."""
    return {normal_domain(entry.domain): entry.version for entry in message.opset_import}


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model is written in."""
    return opsets_of(model).get("", 1)
