"""Nodes that Qualcomm's compiler takes and computes wrongly: found in a model before it is compiled."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from edgepress.errors import InputError
from edgepress.onnx_graph.files import parse_model
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.onnx_graph.values import Scope, elements
from edgepress.onnx_graph.view import Node, Value, view
from edgepress.onnx_graph.walk import attribute, operand
from edgepress.targets.legality.report import Cause
from edgepress.targets.qnn_htp import (
    Layout,
    Rule,
    StoredWeight,
    lookup_rules_against,
    rules_against,
    shape_rules_against,
)

# What the compiler looks rows up through.
_PASSED = frozenset(("DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Split", "Squeeze", "Unsqueeze"))


@dataclass(frozen=True)
class Trap:
    """A node that would be computed wrongly, why, the change that helps and the pass that makes it, if there is one."""

    node: str
    cause: Cause
    reason: str
    change: str
    fixed_by: str = ""


def find_traps(model: onnx.ModelProto, path: Path) -> list[Trap]:
    """Return the nodes of ``model`` that the HTP would compute wrongly; ``path`` is its file or folder."""
    return [*_by_weight(model, TensorReader(path)), *_by_shape(model), *_by_lookup(model)]


def _by_shape(model: onnx.ModelProto) -> Iterator[Trap]:
    for node in (node for graph in view(model) for node in graph.nodes if not node.domain):
        value = node.input(0)
        shape = _fixed(value)
        if value is None or shape is None:
            continue  # a shape that is not fixed is not taken
        stored = value.stored.removeprefix("tensor(").removesuffix(")") if value.dequantized else ""
        for rule in shape_rules_against(node.op, shape, stored):
            reason = (
                f"the HTP takes {node.op} of {shape} in {stored or 'floating point'}, and where there is more "
                "than one element before the last two axes it computes wrong results for many sizes, without a word"
            )
            yield Trap(node.proto.name or node.proto.output[0], "rank", reason, rule.remedy, rule.fixed_by)


def _by_lookup(model: onnx.ModelProto) -> Iterator[Trap]:
    for graph in view(model):
        readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.proto.input):
                readers.setdefault(name, []).append(node)
        for node in graph.nodes:
            table, rows = node.input(0), node.input(1)
            if node.key != "ai.onnx:Gather" or table is None or not table.dequantized or rows is None or rows.constant:
                continue
            stored, indices = (kind.removeprefix("tensor(").removesuffix(")") for kind in (table.stored, rows.type))
            for rule in lookup_rules_against(stored, indices, list(_readings(node, readers))):
                reason = (
                    f"the HTP takes rows of {stored} that are looked up here, and where nodes broadcast them over an "
                    "axis before the rows it gives them wrong ones for many sizes, without a word"
                )
                yield Trap(node.proto.name or node.proto.output[0], "rank", reason, rule.remedy)


def _readings(lookup: Node, readers: dict[str, list[Node]]) -> Iterator[tuple[list[int], list[int]]]:
    """The shapes of what is looked up and of the result, for each node that reads it, as far as they are fixed."""
    waiting = list(lookup.proto.output)
    while waiting:
        name = waiting.pop()
        for node in readers.get(name, []):
            if node.op in _PASSED and node.proto.input[0] == name:
                waiting += node.proto.output
                continue
            read = next(value for value in node.inputs if value is not None and value.name == name)
            shape, result = _fixed(read), _fixed(node.outputs[0])
            if shape is not None and result is not None:
                yield shape, result


def _fixed(value: Value | None) -> list[int] | None:
    """The shape, None where it is not fixed."""
    if value is None or value.shape is None:
        return None
    shape = [size for size in value.shape if size is not None]
    return shape if len(shape) == len(value.shape) else None


def _by_weight(model: onnx.ModelProto, tensors: TensorReader) -> Iterator[Trap]:
    scope = Scope(model)
    dequantized = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    codes = _code_types(scope)
    for node in model.graph.node:
        activation = dequantized.get(node.input[0]) if node.input else None
        for name in node.input[1:]:
            weight = dequantized.get(name)
            if weight is None or activation is None or weight.input[0] not in scope.constants:
                continue
            stored = StoredWeight(
                operator=node.op_type,
                kind=codes[weight.input[0]],
                layout=_layout(weight, scope),
                centred=not np.any(_values(weight, 2, scope, tensors)),
                negative=bool(np.any(_values(weight, 1, scope, tensors) < 0)),
                activations=codes.get(activation.input[0], ""),
            )
            for rule in rules_against(stored):
                if rule.wrong:
                    reason = _wrong_weight(stored, rule)
                    yield Trap(node.name or node.output[0], "quantization", reason, f"store {rule.remedy}")


def _wrong_weight(weight: StoredWeight, rule: Rule) -> str:
    points = "zero point 0" if rule.centred else "a zero point that is not 0"
    form = "a negative scale" if rule.negative else points
    return (
        f"the HTP takes {weight.kind} weights per {weight.layout} with {form} and {weight.activations} activations, "
        "and computes wrong results without a word"
    )


def refuse_traps(path: Path) -> None:
    """Raise InputError if the model in ``path`` has a node that the HTP would compute wrongly."""
    traps = find_traps(parse_model(path), path)
    if traps:
        first = traps[0]
        more = f" (and {len(traps) - 1} more)" if len(traps) > 1 else ""
        remedy = first.change + (f" (the pass {first.fixed_by})" if first.fixed_by else "")
        raise InputError(f"{path}: node {first.node}{more}: {first.reason}; {remedy}")


def _code_types(scope: Scope) -> dict[str, str]:
    """The types of quantized values by name, ``uint16`` and so on: constants, inputs and what is quantized."""
    kinds = {name: _kind(tensor.data_type) for name, tensor in scope.constants.items()}
    for value in [*scope.graph.input, *scope.graph.value_info]:
        kinds.setdefault(value.name, _kind(value.type.tensor_type.elem_type))
    for node in scope.graph.node:
        if node.op_type == "QuantizeLinear":
            dtype = attribute(node, "output_dtype", 0)
            default = kinds.get(node.input[2], "") if len(node.input) > 2 else "uint8"
            kinds[node.output[0]] = _kind(dtype) if dtype else default
        elif node.op_type == "DequantizeLinear" and operand(node, 2):
            kinds.setdefault(node.input[0], kinds.get(node.input[2], ""))  # both have one type
    return kinds


def _kind(number: int) -> str:
    return str(TensorProto.DataType.Name(number)).lower()


def _layout(weight: onnx.NodeProto, scope: Scope) -> Layout:
    if attribute(weight, "block_size", 0):
        return "block"
    scale = scope.constants.get(weight.input[1])
    return "channel" if scale is not None and elements(scale) > 1 else "tensor"


def _values(weight: onnx.NodeProto, index: int, scope: Scope, tensors: TensorReader) -> npt.NDArray[np.float64]:
    """The scales (input 1) or zero points (input 2) of a DequantizeLinear; 0 where there are none that are constant."""
    tensor = scope.constants.get(operand(weight, index))
    return np.zeros(1) if tensor is None else tensors.array(tensor).astype(np.float64)
