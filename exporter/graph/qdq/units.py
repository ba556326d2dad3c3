"""Nodes of a QDQ graph that a provider does not compute in integers → nodes that compute in floats.

onnxruntime takes a node between DequantizeLinear and QuantizeLinear for one unit, and gives it to a provider whole or
not at all. Such a unit is opened where its output is rounded: what reads it reads floats, or, where a product needs
integers, rounds what a Max has cut at the lowest code first, which changes nothing and ends the unit::

    DequantizeLinear ─ Slice ─ QuantizeLinear ─ DequantizeLinear ─ Add     ─►  DequantizeLinear ─ Slice ─ Add
    … ─ MaxPool ─ QuantizeLinear ─ DequantizeLinear ─ Conv                 ─►  … ─ MaxPool ─ Max ─ QuantizeLinear ─ …

Codes that begin at 0 may stand for a Relu, or a Clip from 0 on, that went into them: what is computed in floats is cut
where they end, then::

    … ─ MatMul ─ QuantizeLinear ─ DequantizeLinear ─ Gemm                  ─►  … ─ MatMul ─ Relu ─ Min ─ Gemm
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.exporter.graph.editing import Editor, remove_unused, set_nodes
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.tensors import Rows
from edgepress.onnx_graph.walk import attribute, operand

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ONE_SCALE = ("Gemm", "MatMul")  # integer products that take one scale alone
_WITHIN = (
    *("AveragePool", "Concat", "Expand", "Flatten", "Gather", "GlobalAveragePool", "MaxPool", "Pad", "Reshape"),
    *("Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)  # what gives nothing below 0 of what is not


def leave_units(model: onnx.ModelProto, weights: Weights, integers: Collection[str]) -> tuple[str, ...]:
    """Open the units of nodes that are not in ``integers``, in place; returns the products that now are in floats."""
    editor = Editor(model, model.graph, weights)
    left = [node for node in model.graph.node if node.op_type in _ONE_SCALE and _has_channels(editor, node)]
    for node in left:
        for index in range(1, len(node.input)):
            _dequantize(editor, node, index)
    names = {node.name for node in left}
    outputs = {value.name for value in model.graph.output}
    after: dict[str, str] = {}  # what is read instead of a value
    cut: dict[str, onnx.NodeProto] = {}  # Max nodes before a QuantizeLinear, by its name
    behind: dict[str, list[onnx.NodeProto]] = {}  # what cuts a value, by its name
    for node in model.graph.node:
        is_left = node.name in names or node.op_type not in (*integers, "QuantizeLinear", "DequantizeLinear")
        rounding = _rounding(editor, node)
        if not is_left or rounding is None:
            continue
        readers = [reader for one in rounding[1] for reader in editor.readers.get(one.output[0], ())]
        given = [one.output[0] for one in rounding[1] if one.output[0] in outputs]
        if given:
            continue  # a value that the model gives: it stays rounded
        if any(reader.op_type in _PRODUCTS and reader.name not in names for reader in readers):
            cut[rounding[0].name] = _cut(editor, node.output[0], rounding[0])
        else:
            behind[node.output[0]] = bounds = _bounds(editor, node, rounding[0])
            read = bounds[-1].output[0] if bounds else node.output[0]
            after |= {one.output[0]: read for one in rounding[1]}
    nodes = []
    for node in model.graph.node:
        if node.name in cut:
            nodes.append(cut[node.name])
            node.input[0] = cut[node.name].output[0]
        for index, name in enumerate(node.input):
            node.input[index] = _followed(after, name)
        nodes.append(node)
        for name in node.output:
            nodes += behind.get(name, ())
    set_nodes(model.graph, nodes)
    remove_unused(model)
    return tuple(sorted(names))


def _followed(after: Mapping[str, str], name: str) -> str:
    """What is read in the end instead of a value."""
    while name in after:
        name = after[name]
    return name


def _has_channels(editor: Editor, node: onnx.NodeProto) -> bool:
    maker = editor.makers.get(operand(node, 1))
    if maker is None or maker.op_type != "DequantizeLinear":
        return False
    scale = editor.constants.get(maker.input[1])
    return scale is not None and int(np.prod(scale.dims)) > 1


def _rounding(editor: Editor, node: onnx.NodeProto) -> tuple[onnx.NodeProto, list[onnx.NodeProto]] | None:
    """The QuantizeLinear that alone reads a node's output, and the DequantizeLinear nodes that alone read its codes."""
    if len(node.output) != 1:
        return None
    readers = editor.readers.get(node.output[0], ())
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
        return None
    last = editor.readers.get(readers[0].output[0], ())
    return (readers[0], list(last)) if last and all(one.op_type == "DequantizeLinear" for one in last) else None


def _bounds(editor: Editor, node: onnx.NodeProto, rounding: onnx.NodeProto) -> list[onnx.NodeProto]:
    """What cuts the node's output as its codes do, where they begin at 0; nothing where it lies within them anyway."""
    name = node.output[0]
    scale, zero = (editor.weights.array(editor.constants[rounding.input[at]]) for at in (1, 2))
    if node.op_type in _WITHIN or (zero != np.iinfo(zero.dtype).min).any():
        return []
    largest = (np.float32(np.iinfo(zero.dtype).max) - zero.astype(np.float32)) * scale
    highest = editor.constant(f"{name}/highest", np.asarray(largest, np.float32))
    return [
        onnx.helper.make_node("Relu", [name], [f"{name}/positive"], name=f"{name}/positive"),
        onnx.helper.make_node("Min", [f"{name}/positive", highest], [f"{name}/bounded"], name=f"{name}/bounded"),
    ]


def _cut(editor: Editor, name: str, rounding: onnx.NodeProto) -> onnx.NodeProto:
    """``max(x, (least code − zero) · scale)``: what the codes cannot hold is rounded to the least one anyway."""
    scale, zero = (editor.weights.array(editor.constants[rounding.input[at]]) for at in (1, 2))
    least = (np.float32(np.iinfo(zero.dtype).min) - zero.astype(np.float32)) * scale
    lowest = editor.constant(f"{name}/lowest", np.asarray(least, np.float32))
    return onnx.helper.make_node("Max", [name, lowest], [f"{name}/cut"], name=f"{name}/cut")


def _dequantize(editor: Editor, node: onnx.NodeProto, index: int) -> None:
    """Have a node read a constant in float32 that it reads dequantized."""
    maker = editor.makers.get(node.input[index])
    if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in editor.constants:
        return
    stored = editor.constants[maker.input[0]]
    rows = editor.weights.rows(stored)
    scale, axis = editor.weights.array(editor.constants[maker.input[1]]), attribute(maker, "axis", 1)
    zero_name = operand(maker, 2)
    zero = editor.weights.array(editor.constants[zero_name]) if zero_name else np.zeros((), np.int8)
    rank = len(stored.dims)

    def read(start: int, stop: int) -> NDArray[np.float32]:
        codes = rows.read(start, stop).astype(np.float32)
        parts = [value.astype(np.float32) for value in (scale, zero)]
        if scale.ndim:
            shape = [1] * rank
            shape[axis] = -1
            parts = [value[start:stop] if axis == 0 and value.ndim else value for value in parts]
            parts = [value.reshape(shape) if value.ndim else value for value in parts]
        return np.asarray((codes - parts[1]) * parts[0], np.float32)

    made = Rows(rows.dims, onnx.TensorProto.FLOAT, read)
    node.input[index] = editor.weight(f"{maker.output[0]}.float", made)
