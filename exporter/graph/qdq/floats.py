"""Nodes that stay in float between integers: which go along with those that are asked for.

::

    integers ─ DequantizeLinear ─ node ─ node ─ QuantizeLinear ─ integers

A node in float reads what nodes in float make as it is made, and what others make from its integers. So a value stays
float where the node that makes it does and none that reads it is in integers.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.graph.qdq.roles import MOVES, role

_BOUNDS = ("Clip", "Relu")


def name_of(node: onnx.NodeProto) -> str:
    """What a node is called: its name, or its first output's where it has none."""
    return str(node.name or node.output[0])


def bounds_alone(model: FloatModel, node: onnx.NodeProto) -> bool:
    """Whether a node bounds a value that no other one reads: with that, it becomes one node in integers."""
    if node.op_type not in _BOUNDS or node.input[0] not in model.makers:
        return False
    maker = model.makers[node.input[0]]
    alone = len(model.readers[node.input[0]]) == 1 and node.input[0] not in model.outputs
    return alone and maker.op_type not in MOVES


def reads_as_weight(model: FloatModel, node: onnx.NodeProto, names: Collection[str]) -> bool:
    """Whether a node multiplies by one of these constants."""
    return any(
        name in names and role(node, index, is_constant=True, rank=len(model.constants[name].dims)) == "weight"
        for index, name in enumerate(node.input)
        if name in model.constants
    )


def reads_infinity(model: FloatModel, node: onnx.NodeProto) -> bool:
    """Whether a node computes with a constant that no integer can stand for: -inf in Max or in a mask, or NaN."""
    return any(
        model.is_float.get(name)
        and role(node, index, is_constant=True, rank=len(model.constants[name].dims)) == "activation"
        and not np.isfinite(model.value(name)).all()
        for index, name in enumerate(node.input)
        if name in model.constants
    )


def close_floats(model: FloatModel, asked: Collection[str], kept: Collection[str] = ()) -> frozenset[str]:
    """Names of the nodes in float: those ``asked`` for, those that multiply by a weight that is ``kept``, and more.

    Those that compute with a constant that is not finite are among them. A Relu or Clip goes with the node that alone
    makes what it bounds, either way. What only moves values goes along where all that it moves is made in float.
    """
    found = {
        name_of(node)
        for node in model.nodes
        if name_of(node) in asked or reads_as_weight(model, node, kept) or reads_infinity(model, node)
    }
    while True:
        before = len(found)
        for node in model.nodes:
            if bounds_alone(model, node):
                maker = name_of(model.makers[node.input[0]])
                if {maker, name_of(node)} & found:
                    found |= {maker, name_of(node)}
            elif node.op_type in MOVES:
                moved = node.input if node.op_type == "Concat" else node.input[:1]
                made = [name for name in moved if name not in model.constants]
                makers = [model.makers.get(name) for name in made]
                if makers and all(maker is not None and name_of(maker) in found for maker in makers):
                    found.add(name_of(node))
        if len(found) == before:
            return frozenset(found)
