"""Rewriting the nodes of a graph, in place: a rule for each kind of node says what stands there instead."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.errors import InputError
from edgepress.exporter.graph.weights import Rows, Weights, graphs

_ONNX = ("", "ai.onnx")  # two spellings of ONNX's own domain
_IR_OF_OPSET = 11  # ir version that came with opset 23, the newest that passes need
_FREE_TO_RAISE = 21  # from here to 24 operators only gained types and optional attributes
_KEEPS_SHAPE = (
    "RotaryEmbedding",
    "QuickGelu",
    "FastGelu",
    "BiasGelu",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "SkipLayerNormalization",
)
_SMALL = 1 << 16  # elements of a constant that is read while rewriting


class Editor:
    """One graph whose nodes are being replaced; ``emit`` adds to what stands instead of the node at hand."""

    def __init__(self, model: onnx.ModelProto, graph: onnx.GraphProto, weights: Weights) -> None:
        self.model, self.graph, self.weights = model, graph, weights
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._outer = {} if graph is model.graph else {tensor.name: tensor for tensor in model.graph.initializer}
        self._constants = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
        self._shapes: dict[str, list[int | None]] | None = None
        self.makers = {output: node for node in graph.node for output in node.output}
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

    def tensor(self, name: str) -> onnx.TensorProto | None:
        """The initializer or Constant node called ``name``."""
        found = self._initializers.get(name) or self._outer.get(name)
        if found is None and name in self._constants:
            value = attributes_of(self._constants[name]).get("value")
            if isinstance(value, TensorProto):
                found = TensorProto()
                found.CopyFrom(value)
                found.name = name
        return found

    def small(self, name: str) -> NDArray[Any] | None:
        """The value of a small constant, None when ``name`` is no constant or a large one."""
        found = self.tensor(name)
        if found is None or int(np.prod(found.dims)) > _SMALL:
            return None
        return self.weights.array(found)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a small constant; the same name again must be the same value."""
        if name not in self._initializers:
            self._add(numpy_helper.from_array(value, name))
        return name

    def integers(self, *values: int) -> str:
        """A constant list of int64, named by what it holds."""
        return self.constant("ints_" + "_".join(map(str, values)).replace("-", "m"), np.array(values, np.int64))

    def weight(self, name: str, rows: Rows) -> str:
        """Add a weight that is made when it is written."""
        if name not in self._initializers:
            self._add(self.weights.tensor(name, rows))
        return name

    def alias(self, name: str, tensor: onnx.TensorProto, dims: Sequence[int]) -> str:
        """Add an initializer with the bytes of ``tensor``, which are in a file, and another shape."""
        same = _copied_tensor(tensor)
        same.name = name
        del same.dims[:]
        same.dims.extend(dims)
        self._add(same)
        return name

    def _add(self, tensor: onnx.TensorProto) -> None:
        self.graph.initializer.append(tensor)
        self._initializers[tensor.name] = self.graph.initializer[-1]

    def shape(self, name: str) -> list[int | None] | None:
        """The shape of a value as far as it is known, None when not even its rank is."""
        if self._shapes is None:
            self._shapes = known_shapes(self.model)
        return self._shapes.get(name)


Rule = Callable[[Editor, onnx.NodeProto], bool]


def rewrite(model: onnx.ModelProto, weights: Weights, rules: Mapping[tuple[str, str], Rule]) -> int:
    """Replace the nodes for which there is a rule under (domain, operator); return how many were.

    A rule emits what stands instead and returns True, or returns False and the node stays as it is.
    """
    changes = 0
    for graph in list(graphs(model.graph)):
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
        nodes = [_copied(node) for node in editor.nodes]
        del graph.node[:]
        graph.node.extend(nodes)
    if changes:
        remove_unused(model)
    return changes


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _kind(node: onnx.NodeProto) -> tuple[str, str]:
    return ("" if node.domain in _ONNX else node.domain, node.op_type)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values; strings as text."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in values.items()}


def operand(node: onnx.NodeProto, index: int) -> str:
    """The name of an input, "" when it is left out."""
    return node.input[index] if index < len(node.input) else ""


def result(node: onnx.NodeProto, index: int) -> str:
    """The name of an output, "" when it is left out."""
    return node.output[index] if index < len(node.output) else ""


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model is written in."""
    return next((entry.version for entry in model.opset_import if entry.domain in _ONNX), 1)


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
        if entry.domain in _ONNX:
            entry.version = version
    model.ir_version = max(model.ir_version, _IR_OF_OPSET)


def known_shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """The shape of every value that shape inference finds; a dimension that is not known is None."""
    inferred = infer_shapes(_with_stand_ins(model))
    found: dict[str, list[int | None]] = {}
    for graph in graphs(inferred.graph):
        for tensor in graph.initializer:
            found[tensor.name] = list(tensor.dims)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                found[value.name] = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    return found


def _with_stand_ins(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which onnxruntime's operators that keep their first input's shape are Identity, which onnx knows."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in graphs(copy.graph):
        nodes = [stand_in for node in graph.node for stand_in in _stand_ins(node)]
        del graph.node[:]
        graph.node.extend(nodes)
    return copy


def _stand_ins(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if node.op_type not in _KEEPS_SHAPE:
        return [_copied(node)]
    outputs = [name for name in (result(node, 0), result(node, 3)) if name]  # 3 is the sum that Skip… gives besides
    return [helper.make_node("Identity", node.input[:1], [name]) for name in outputs]


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model with the shapes and types that onnx finds, values of small constants included."""
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def remove_unused(model: onnx.ModelProto) -> int:
    """Remove nodes that nothing needs, and the initializers that then nothing reads; return how many nodes."""
    removed = 0
    while gone := _remove_dead_nodes(model.graph):
        removed += gone
    read = {name for graph in graphs(model.graph) for node in graph.node for name in node.input}
    read |= {value.name for graph in graphs(model.graph) for value in graph.output}
    inputs = {value.name for value in model.graph.input}
    for graph in graphs(model.graph):
        kept = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name in inputs]
        if len(kept) != len(graph.initializer):
            copies = [_copied_tensor(tensor) for tensor in kept]
            del graph.initializer[:]
            graph.initializer.extend(copies)
    return removed


def _copied_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy


def _remove_dead_nodes(outermost: onnx.GraphProto) -> int:
    read = {name for graph in graphs(outermost) for node in graph.node for name in node.input}
    read |= {value.name for graph in graphs(outermost) for value in graph.output}
    removed = 0
    for graph in graphs(outermost):
        kept = [node for node in graph.node if any(output in read for output in node.output if output)]
        if len(kept) != len(graph.node):
            removed += len(graph.node) - len(kept)
            copies = [_copied(node) for node in kept]
            del graph.node[:]
            graph.node.extend(copies)
            break  # what stood inside the removed nodes is gone: look again
    return removed
