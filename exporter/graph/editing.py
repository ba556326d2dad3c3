"""Rewriting the nodes of a graph, in place: a rule for each kind of node gives what replaces it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgepress.errors import InputError
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.tensors import Rows
from edgepress.onnx_graph.values import Scope, elements, inferred
from edgepress.onnx_graph.walk import all_nodes, attribute, graphs, normal_domain, operand, opset

_IR_OF_OPSET = 11  # ir version that came with opset 23, the newest that passes need
_FREE_TO_RAISE = 21  # from here to 24 operators only gained types and optional attributes
_SMALL = 1 << 16  # elements of a constant that is read while rewriting


class Editor(Scope):
    """One graph whose nodes are being replaced; ``emit`` adds to what replaces the present node."""

    def __init__(self, model: onnx.ModelProto, graph: onnx.GraphProto, weights: Weights) -> None:
        super().__init__(model, graph)
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        output: str | Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node named as its first output, which is returned."""
        outputs = [output] if isinstance(output, str) else list(output)
        node = onnx.NodeProto(op_type=op, input=inputs, output=outputs, name=outputs[0], domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        return outputs[0]

    def small(self, name: str) -> NDArray[Any] | None:
        """The value of a small constant, None when ``name`` is no constant or a large one."""
        found = self.constants.get(name)
        return None if found is None or elements(found) > _SMALL else self.weights.array(found)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a small constant; the same name again must be the same value."""
        if name not in self.constants:
            self._add(numpy_helper.from_array(value, name))
        return name

    def integers(self, *values: int) -> str:
        """A constant list of int64, named by what it holds."""
        return self.constant("ints_" + "_".join(map(str, values)).replace("-", "m"), np.array(values, np.int64))

    def weight(self, name: str, rows: Rows) -> str:
        """Add a weight that is made when it is written."""
        if name not in self.constants:
            self._add(self.weights.tensor(name, rows))
        return name

    def alias(self, name: str, tensor: onnx.TensorProto, dims: Sequence[int]) -> str:
        """Add an initializer with the bytes of ``tensor``, which are in a file, and another shape."""
        same = copied(tensor)
        same.name = name
        del same.dims[:]
        same.dims.extend(dims)
        self._add(same)
        return name

    def _add(self, tensor: onnx.TensorProto) -> None:
        self.graph.initializer.append(tensor)
        self.constants[tensor.name] = self.graph.initializer[-1]


Rule = Callable[[Editor, onnx.NodeProto], bool]


def rewrite(model: onnx.ModelProto, weights: Weights, rules: Mapping[tuple[str, str], Rule]) -> int:
    """Replace the nodes for which there is a rule under (domain, operator); return how many were.

    A rule emits what replaces the node and returns True, or returns False and the node stays as it is.
    """
    changes = 0
    for graph in reversed(list(graphs(model.graph))):  # inner ones first, as nodes are copied with them
        if not any(_kind(node) in rules for node in graph.node):
            continue
        editor = Editor(model, graph, weights)
        for node in graph.node:
            rule = rules.get(_kind(node))
            before = len(editor.nodes)
            if rule is not None and rule(editor, node):
                changes += 1
            else:
                del editor.nodes[before:]
                editor.nodes.append(node)
        set_nodes(graph, editor.nodes)
    if changes:
        remove_unused(model)
    return changes


M = TypeVar("M", bound=Message)


def copied(message: M) -> M:
    """A copy of a node or tensor, which does not change with what it is taken from."""
    copy: M = type(message)()
    copy.CopyFrom(message)
    return copy


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Have a graph consist of ``nodes``, some of which may be its own."""
    copies = [copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _kind(node: onnx.NodeProto) -> tuple[str, str]:
    return normal_domain(node.domain), node.op_type


def require_opset(model: onnx.ModelProto, version: int) -> None:
    """Bring a model to at least opset ``version``, at most 24.

    From 21 on operators only gained types and optional attributes, so the number is raised; an older model must be
    exported anew or converted first.

    Raises:
        InputError: the model's opset is older than 21 and than ``version``.

    """
    found = opset(model)
    if found >= version:
        return
    if found < _FREE_TO_RAISE:
        raise InputError(
            f"the model is in opset {found}, and at least {version} is needed; export it in opset 21 or newer "
            "(onnx's version_converter does it where all operators are ONNX's own)"
        )
    for entry in model.opset_import:
        if not normal_domain(entry.domain):
            entry.version = version
    model.ir_version = max(model.ir_version, _IR_OF_OPSET)


def remove_unused(model: onnx.ModelProto) -> int:
    """Remove nodes that nothing needs, and the initializers that then nothing reads; return how many nodes."""
    removed = 0
    while gone := _remove_dead_nodes(model.graph):
        removed += gone
    needed = _read(model.graph) | {value.name for value in model.graph.input}
    for graph in graphs(model.graph):
        kept = [copied(tensor) for tensor in graph.initializer if tensor.name in needed]
        if len(kept) != len(graph.initializer):
            del graph.initializer[:]
            graph.initializer.extend(kept)
    return removed


def _read(outermost: onnx.GraphProto) -> set[str]:
    """What nodes read and graphs give, inner ones too."""
    values = {value.name for graph in graphs(outermost) for value in graph.output}
    return values | {name for node in all_nodes(outermost.node) for name in node.input}


def _remove_dead_nodes(outermost: onnx.GraphProto) -> int:
    read = _read(outermost)
    removed = 0
    for graph in graphs(outermost):
        kept = [node for node in graph.node if any(output in read for output in node.output if output)]
        if len(kept) != len(graph.node):
            removed += len(graph.node) - len(kept)
            set_nodes(graph, kept)
            break  # what stood inside the removed nodes is gone: look again
    return removed


def pass_by(model: onnx.ModelProto) -> int:
    """Let the readers of Identity, Dropout and idle Casts read what these read; outputs keep their names."""
    graph = model.graph
    found = inferred(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*found.input, *found.value_info, *found.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    instead: dict[str, str] = {}
    for node in graph.node:
        idle = node.op_type == "Identity" or (node.op_type == "Dropout" and _is_idle_dropout(node))
        if node.op_type == "Cast":
            idle = types.get(node.input[0]) == attribute(node, "to")
        if idle and node.output[0] not in outputs:
            instead[node.output[0]] = instead.get(node.input[0], node.input[0])
    for node in all_nodes(graph.node):
        for index, name in enumerate(node.input):
            node.input[index] = instead.get(name, name)
    return len(instead) if instead and remove_unused(model) else 0


def _is_idle_dropout(node: onnx.NodeProto) -> bool:
    """In inference: no training mode, and nobody asks for the mask."""
    return len(node.output) == 1 and not operand(node, 2)
