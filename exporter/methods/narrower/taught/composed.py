"""Filters of a graph computed as the convolutions that they are, while they are trained.

What :mod:`~edgepress.exporter.methods.narrower.filters` writes takes torch more than twice as long to train as a
convolution whose weight is made of filters and mixing at every step::

    x ─ Gather ─ Conv, depthwise ─ Conv, 1 × 1 ─ y        x ─ Conv (W) ─ y,  W[o, i] = Σ_t P[o, t] F[t], t of channel i
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from edgepress.onnx_graph.values import Scope
from edgepress.onnx_graph.walk import attribute, normal_domain

_ENOUGH = 2  # filters for each channel, from which a convolution is faster


@dataclass(frozen=True)
class Composed:
    """A weight (outputs, inputs, height, width) that is made of ``filters`` and ``mixing``, which are constants."""

    name: str
    filters: str
    mixing: str
    channels: Tensor  # (n,), that each filter reads
    inputs: int

    def value(self, constants: Mapping[str, Tensor]) -> Tensor:
        """The weight of these filters (n, 1, height, width) and this mixing (outputs, n, 1, 1)."""
        filters, mixing = constants[self.filters], constants[self.mixing]
        each = mixing[:, :, 0, 0, None] * filters.flatten(1)  # (outputs, n, kernel)
        found = each.new_zeros(len(mixing), self.inputs, each.shape[2]).index_add(1, self.channels, each)
        return found.reshape(len(mixing), self.inputs, *filters.shape[2:])


def composed(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Composed]]:
    """``model`` with such convolutions instead of filters, where that is faster, and what their weights are made of.

    The filters stay among its constants.
    """
    scope, found = Scope(model), []
    new = onnx.ModelProto()
    new.CopyFrom(model)
    instead: dict[str, onnx.NodeProto | None] = {}  # by what a node makes
    for node in model.graph.node:
        depthwise = scope.makers.get(node.input[0]) if _has_weight(scope, node) else None
        gather = scope.makers.get(depthwise.input[0]) if depthwise and _is_depthwise(scope, depthwise) else None
        if not depthwise or not gather or gather.op_type != "Gather" or not _is_alone(scope, gather, depthwise):
            continue
        mixing, indices = scope.constants[node.input[1]], scope.constants.get(gather.input[1])
        shape = scope.shape(gather.input[0]) or []
        if list(mixing.dims[2:]) != [1, 1] or attribute(node, "group", 1) != 1 or _moves(node):
            continue
        if indices is None or len(shape) != 4 or attribute(gather, "axis", 0) != 1 or not shape[1]:
            continue
        channels = torch.from_numpy(np.array(numpy_helper.to_array(indices)))
        if channels.dim() != 1 or len(channels) < _ENOUGH * shape[1]:
            continue
        name = f"{node.output[0]}.composed"
        found.append(Composed(name, depthwise.input[1], node.input[1], channels % shape[1], shape[1]))
        whole = helper.make_node("Conv", [gather.input[0], name, *node.input[2:]], node.output, name=node.name)
        whole.attribute.extend(entry for entry in depthwise.attribute if entry.name != "group")
        instead |= {gather.output[0]: None, depthwise.output[0]: None, node.output[0]: whole}
        kernel = scope.constants[depthwise.input[1]].dims[2:]
        zeros = np.zeros((mixing.dims[0], shape[1], *kernel), np.float32)  # until there are filters
        new.graph.initializer.append(numpy_helper.from_array(zeros, name))
    left = [instead.get(node.output[0], node) for node in model.graph.node]
    del new.graph.node[:]
    new.graph.node.extend(node for node in left if node is not None)
    return new, found


def _has_weight(scope: Scope, node: onnx.NodeProto) -> bool:
    """Whether it is a convolution of images by a constant in float32 that nothing else reads."""
    if node.op_type != "Conv" or normal_domain(node.domain):
        return False
    weight = scope.constants.get(node.input[1])
    if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) != 4:
        return False
    return len(scope.readers[node.input[1]]) == 1


def _is_depthwise(scope: Scope, node: onnx.NodeProto) -> bool:
    """Whether it has a filter for each channel, adds nothing, and only one node reads what it makes."""
    if not _has_weight(scope, node) or len(node.input) > 2:
        return False
    dims = scope.constants[node.input[1]].dims
    return dims[1] == 1 and attribute(node, "group", 1) == dims[0] and len(scope.readers[node.output[0]]) == 1


def _is_alone(scope: Scope, gather: onnx.NodeProto, reader: onnx.NodeProto) -> bool:
    """Whether only this node reads what a Gather makes, and no output is it."""
    outputs = {value.name for value in scope.graph.output}
    return len(scope.readers[gather.output[0]]) == 1 and not outputs.intersection((*gather.output, *reader.output))


def _moves(node: onnx.NodeProto) -> bool:
    """Whether a 1 × 1 convolution skips places, or goes past the edge."""
    return any(value != 1 for value in attribute(node, "strides", [])) or any(attribute(node, "pads", []))
