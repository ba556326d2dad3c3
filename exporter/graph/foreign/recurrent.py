"""LSTMs whose products are in integers: codes of their weights are read as they lie in the data file.

::

    x ─ LSTM (W, R, b, states)  ─►  x ─ DynamicQuantizeLSTM (codes of W and R, scales and zero points; b, states)

What goes into the products is rounded to uint8 at each call: x over all steps of the call, what is carried over the
sequences of a step. Codes are int8 whose pairs fit into 16 bits where a target has that faster, else uint8: products of
both are exact on every processor.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from edgepress.exporter.arrays import integer
from edgepress.exporter.graph.builder import CONTRIB, FLOAT
from edgepress.exporter.graph.linears import INT8, UINT8, Nodes
from edgepress.exporter.plan.plan import PlannedTensor
from edgepress.onnx_graph.walk import attribute, operand

LEAST = 256
"""Numbers that an LSTM carries from which on integers pay, counted by ``benchmarks/arm_encoders.py``: with int8 codes
processors with dot products take 0.55 to 0.92 of the instructions of floats there, at 128 0.71 to 1.15; a Cortex-A53,
which has none, 0.91 to 1.00 and 1.06 to 1.17 (with uint8 codes 1.45 and more at any width).
"""

_ATTRIBUTES = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget")
_GATES = 4
_OPTIONAL = 8  # inputs that both operators have: x, W, R, bias, lengths, two states, peepholes


def why_float(node: onnx.NodeProto, dims: Sequence[int]) -> str:
    """Why a node with a weight (directions, gates · hidden, columns) has no form in integers; "" if it has one."""
    if node.op_type != "LSTM":
        return f"onnxruntime has no {node.op_type} in integers"
    if attribute(node, "layout", 0):
        return "onnxruntime's LSTM in integers takes sequences behind steps alone"
    width = attribute(node, "hidden_size", dims[-2] // _GATES)
    return "" if width >= LEAST else f"integers pay for LSTMs of {LEAST} numbers or more, and this one has {width}"


def write_lstm(g: Nodes, node: onnx.NodeProto, w: PlannedTensor, r: PlannedTensor, directions: int) -> None:
    """Write the node that stands for ``node``, whose weights are ``w`` and ``r``."""
    codes, grids = [], list[str]()
    for tensor in (w, r):
        matrix, *grid = _stored(g, tensor, directions, f"{next(filter(None, node.output))}.{tensor.weight.name}")
        codes.append(matrix)
        grids += grid
    inputs = [operand(node, index) for index in range(_OPTIONAL)]
    inputs[1:3] = codes
    kept = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute if entry.name in _ATTRIBUTES}
    outputs = list(node.output)
    g.node("DynamicQuantizeLSTM", [*inputs, *grids], outputs[0], more_outputs=outputs[1:], domain=CONTRIB, **kept)


def write_floats(g: Nodes, tensor: PlannedTensor, dims: Sequence[int]) -> None:
    """The weight (directions, 4 · hidden, columns) in floats, where one of its LSTMs computes in them::

    codes ─ Cast ─ Sub(zero points) ─ Mul(scales) ─ Transpose ─ W
    """
    name, (directions, rows, _) = tensor.weight.name, dims
    codes, scales, zeros = _stored(g, tensor, directions, f"{name}.floats")
    by_column = g.constant(f"{name}.by_column", np.array([directions, 1, rows], np.int64))
    numbers = g.node("Cast", [codes], f"{name}.numbers", to=FLOAT)
    zeros = g.node(
        "Cast", [g.node("Reshape", [zeros, by_column], f"{name}.zeros.by_column")], f"{name}.zeros", to=FLOAT
    )
    steps = g.node("Sub", [numbers, zeros], f"{name}.steps")
    scales = g.node("Reshape", [scales, by_column], f"{name}.scales.by_column")
    g.node("Transpose", [g.node("Mul", [steps, scales], f"{name}.turned")], name, perm=[0, 2, 1])


def _stored(g: Nodes, tensor: PlannedTensor, directions: int, at: str) -> tuple[str, str, str]:
    """Codes (directions, columns, rows of one), scales and zero points (directions, rows of one), of its own if int8.

    Names of what is made begin with ``at``. The file has codes as (columns, rows of all directions):
    where there is one direction, they are read from it in place.
    """
    name, (rows, columns), regions = tensor.weight.name, tensor.weight.shape, tensor.regions
    each = rows // directions
    shape = (1, columns, rows) if directions == 1 else (columns, directions, each)
    is_signed = tensor.form == "dynamic pairs"
    codes = g.external(f"{name}.values", INT8 if is_signed else UINT8, shape, regions["values"])
    if directions > 1:
        codes = g.node("Transpose", [codes], f"{at}.by_direction", perm=[1, 0, 2])
    scales = g.external(f"{name}.scales", FLOAT, (directions, each), regions["scales"])
    if is_signed:  # onnxruntime's option for exact products fails where two weights share zero points
        return codes, scales, g.constant(f"{at}.zero_points", np.zeros((directions, each), np.int8))
    zeros = np.full((directions, each), integer.ZERO_POINT, np.uint8)
    return codes, scales, g.constant(f"zero_points_{directions}_{each}", zeros)
