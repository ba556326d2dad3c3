"""uint8 activations of a QDQ graph → int8: codes and zero points lower by 128, which are the same numbers.

``(code − zero) · scale`` does not change, nor where codes end. A chain of nodes on codes, between the QuantizeLinear
that makes them and what dequantizes them, is left as it is.
"""

from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgepress.exporter.graph.editing import Editor, remove_unused, set_nodes
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.tensors import Rows
from edgepress.onnx_graph.walk import operand

_OFFSET = 128


def to_signed(model: onnx.ModelProto, weights: Weights) -> int:
    """Change what can be changed, in place; returns how many values and constants that are."""
    editor, changed = Editor(model, model.graph, weights), 0
    for node in list(model.graph.node):
        if node.op_type == "QuantizeLinear" and _is_unsigned(editor, node):
            readers = editor.readers.get(node.output[0], ())
            if not all(reader.op_type == "DequantizeLinear" and _is_unsigned(editor, reader) for reader in readers):
                continue
            if any(value.name == node.output[0] for value in model.graph.output):
                continue
            for one in (node, *readers):
                one.input[2] = _zero(editor, one.input[2])
            changed += 1
        elif node.op_type == "DequantizeLinear" and _is_unsigned(editor, node):
            stored = editor.constants.get(node.input[0])
            if stored is None or stored.data_type != TensorProto.UINT8:
                continue
            rows = weights.rows(stored)

            node.input[0] = editor.weight(f"{stored.name}.signed", _lowered(rows))
            node.input[2] = _zero(editor, node.input[2])
            changed += 1
    del model.graph.value_info[:]  # types of codes are others now
    set_nodes(model.graph, list(model.graph.node))
    remove_unused(model)
    return changed


def _lowered(rows: Rows) -> Rows:
    def read(start: int, stop: int) -> NDArray[np.int8]:
        return (rows.read(start, stop).astype(np.int16) - _OFFSET).astype(np.int8)

    return replace(rows, dtype=TensorProto.INT8, read=read)


def _is_unsigned(editor: Editor, node: onnx.NodeProto) -> bool:
    zero = editor.constants.get(operand(node, 2))
    return zero is not None and zero.data_type == TensorProto.UINT8


def _zero(editor: Editor, name: str) -> str:
    value = editor.weights.array(editor.constants[name])
    return editor.constant(f"{name}.signed", (value.astype(np.int16) - _OFFSET).astype(np.int8))
