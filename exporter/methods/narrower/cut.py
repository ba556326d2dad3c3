"""A graph without some of its channels: constants cut, and what counts channels changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgepress.errors import InputError
from edgepress.exporter.methods.narrower.coupling import Coupling
from edgepress.exporter.methods.narrower.trace import Labels, node_name
from edgepress.onnx_graph.values import constant_of, elements
from edgepress.onnx_graph.walk import all_nodes

_SMALL = 1 << 16  # numbers of a constant that each of its readers gets for itself


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model whose constants are all initializers, which is what :func:`.coupling.find_coupling` reads.

    Small constants that several nodes read are stored for each: exporters store all vectors of ones as one, and nothing
    else couples those layers.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    nodes = []
    for node in model.graph.node:
        tensor = constant_of(node) if node.op_type == "Constant" else None
        if tensor is None:
            nodes.append(node)
        else:
            new.graph.initializer.append(tensor)
    del new.graph.node[:]
    new.graph.node.extend(nodes)
    _unshare(new)
    return new


def _unshare(model: onnx.ModelProto) -> None:
    small = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and 1 < elements(tensor) <= _SMALL
    }
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)} | set(small)
    seen: set[str] = set()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in small and name in seen:
                copy = _copied(small[name])
                count = 2
                while (other := f"{name}#{count}") in taken:
                    count += 1
                taken.add(other)
                copy.name = node.input[index] = other
                model.graph.initializer.append(copy)
            seen.add(name)


class _Cut:
    def __init__(self, model: onnx.ModelProto, coupling: Coupling, kept: NDArray[np.bool_]) -> None:
        self.model, self._channel_of, self._kept = model, coupling.channel_of, kept
        self._names = {name for node in model.graph.node for name in (*node.input, *node.output)}
        self._names |= {tensor.name for tensor in model.graph.initializer}
        self.before: dict[str, list[onnx.NodeProto]] = {}  # nodes to put before the one that makes this first

    def kept(self, labels: Labels) -> NDArray[np.bool_]:
        return self._kept[self._channel_of[labels]]

    def set_input(self, node: onnx.NodeProto, index: int, value: NDArray[Any]) -> None:
        node.input.extend([""] * (index + 1 - len(node.input)))
        node.input[index] = self._constant(node, value)

    def compute_input(self, node: onnx.NodeProto, index: int, op: str, *constants: NDArray[Any]) -> None:
        inputs = [*(self._constant(node, value) for value in constants), node.input[index]]
        node.input[index] = self._unique(f"{node_name(node)}.{op}")
        self.before.setdefault(node.output[0], []).append(
            helper.make_node(op, inputs, [node.input[index]], name=node.input[index])
        )

    def _constant(self, node: onnx.NodeProto, value: NDArray[Any]) -> str:
        name = self._unique(f"{node_name(node)}.sizes")
        self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _unique(self, base: str) -> str:
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}#{count}"
        self._names.add(name)
        return name

    def set_attribute(self, node: onnx.NodeProto, name: str, value: object) -> None:
        others = [entry for entry in node.attribute if entry.name != name]
        if value is not None:
            others.append(helper.make_attribute(name, value))
        del node.attribute[:]
        node.attribute.extend(others)


def cut(model: onnx.ModelProto, coupling: Coupling, kept: NDArray[np.bool_]) -> onnx.ModelProto:
    """``model`` with the channels that stay, (count,); its constants as :func:`plain` has them.

    Raises:
        InputError: nothing would stay of an axis; the message names it.

    """
    for what, labels in coupling.whole:
        if not kept[coupling.channel_of[labels]].any():
            raise InputError(f"none of the {len(labels)} channels of {what} would stay; keep at least one")
    new = onnx.ModelProto()
    new.CopyFrom(model)
    cutting = _Cut(new, coupling, kept)
    for tensor in new.graph.initializer:
        axes = coupling.tensors.get(tensor.name, ())
        masks = [None if axis is None else cutting.kept(axis) for axis in axes]
        if all(mask is None or mask.all() for mask in masks):
            continue
        array = numpy_helper.to_array(tensor)
        for place, mask in enumerate(masks):
            if mask is not None:
                array = array.compress(mask, axis=place)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    for index, repair in coupling.repairs.items():
        repair(cutting, new.graph.node[index])
    _insert(new, cutting.before)
    _drop_unread(new)
    del new.graph.value_info[:]
    return new


def masked(model: onnx.ModelProto, coupling: Coupling, kept: NDArray[np.bool_]) -> onnx.ModelProto:
    """``model`` of its old size in which no product reads the channels that go: what :func:`cut` must compute too."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    read = {(site.tensor, site.axis) for group in coupling.groups for site in group.sites if site.reads}
    for tensor in new.graph.initializer:
        array: NDArray[Any] | None = None
        for place, axis in enumerate(coupling.tensors.get(tensor.name, ())):
            if axis is None or (tensor.name, place) not in read or kept[coupling.channel_of[axis]].all():
                continue
            array = numpy_helper.to_array(tensor).copy() if array is None else array
            np.moveaxis(array, place, 0)[~kept[coupling.channel_of[axis]]] = 0
        if array is not None:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return new


def _insert(model: onnx.ModelProto, before: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Put new nodes before those that make a value first."""
    if before:
        nodes = [_copied(new) for node in model.graph.node for new in (*before.get(node.output[0], ()), node)]
        del model.graph.node[:]
        model.graph.node.extend(nodes)


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove constants that repairs have replaced."""
    read = {name for node in all_nodes(model.graph.node) for name in node.input}
    read |= {value.name for value in (*model.graph.input, *model.graph.output)}
    left = [_copied(tensor) for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(left)


M = TypeVar("M", onnx.NodeProto, onnx.TensorProto)


def _copied(message: M) -> M:
    new = type(message)()
    new.CopyFrom(message)
    return new
