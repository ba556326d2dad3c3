"""What is known of a graph's axes while its nodes are walked through, first to last.

Each axis of a value has *labels*: one whole number for each index along it, ``(size,)`` int64, or None where it cannot
be cut (batch, time, height). Constants begin with labels of their own, a rule for each operator (:mod:`.rules`) says
which labels its outputs have, and which labels are the same channel: those are joined. What must be cut together is
then what is connected, as in DepGraph (Fang et al. 2023, arXiv:2301.12900, section 3), down to single channels: a
concatenation is its parts' labels one after the other, a reshape repeats them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgepress.onnx_graph.values import Scope
from edgepress.onnx_graph.walk import attribute, operand, opset, result

Labels = NDArray[np.int64]
Axis = Labels | None
Axes = tuple[Axis, ...]
Kept = Callable[[Labels], NDArray[np.bool_]]


class Cutting(Protocol):
    """What a repair needs of the graph that is being cut."""

    def kept(self, labels: Labels) -> NDArray[np.bool_]:
        """Which of the channels stay, (size,)."""

    def set_input(self, node: onnx.NodeProto, index: int, value: NDArray[Any]) -> None:
        """Give a node a constant of its own."""

    def compute_input(self, node: onnx.NodeProto, index: int, op: str, *constants: NDArray[Any]) -> None:
        """Give a node, instead of an input, what ``op`` makes of constants and that input."""

    def set_attribute(self, node: onnx.NodeProto, name: str, value: object) -> None:
        """Set an attribute, or remove it with None."""


Repair = Callable[[Cutting, onnx.NodeProto], None]


class OpaqueError(Exception):
    """A rule cannot say what a node does with its channels: the reason, as the end of a sentence."""


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one node: ``factor`` times how many of the channels of each of ``labels`` there are."""

    node: str
    factor: int
    labels: tuple[Labels, ...]


@dataclass
class Trace:
    """The labels of every value so far, and what was found about them.

    ``fixed`` and ``tagged`` are labels with a word each: why they cannot be cut, and what they are. ``read`` are the
    axes of constants that are summed over, by (name, axis). ``whole`` are axes of which something must stay.
    """

    scope: Scope
    axes: dict[str, Axes] = field(default_factory=dict)
    joined: list[tuple[Labels, Labels]] = field(default_factory=list)
    fixed: list[tuple[Labels, str]] = field(default_factory=list)
    tagged: list[tuple[Labels, str]] = field(default_factory=list)
    read: set[tuple[str, int]] = field(default_factory=set)
    whole: list[tuple[str, Labels]] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    repairs: dict[int, Repair] = field(default_factory=dict)
    count: int = 0
    index: int = 0

    def begin(self) -> None:
        """Give every constant in float labels of its own."""
        for tensor in self.scope.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                self.axes[tensor.name] = tuple(self.fresh(size) if size > 1 else None for size in tensor.dims)

    def fresh(self, size: int) -> Labels:
        """Labels that no other axis has."""
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64)

    # ---- what is known of a value -----------------------------------------------------------------------------------

    def shape(self, name: str) -> list[int | None]:
        """The shape of a value.

        Raises:
            OpaqueError: not even its rank is known.

        """
        found = self.scope.shape(name)
        if found is None:
            raise OpaqueError(f"the shape of {name} is not known")
        axes = self.axes.get(name, (None,) * len(found))
        return [size if axis is None else len(axis) for size, axis in zip(found, axes, strict=True)]

    def of(self, name: str) -> Axes:
        """The labels of a value's axes."""
        return self.axes[name] if name in self.axes else (None,) * len(self.shape(name))

    @property
    def version(self) -> int:
        """The opset of ONNX's own operators."""
        return opset(self.scope.model)

    def is_labelled(self, name: str) -> bool:
        """Whether any axis of a value has labels."""
        return any(axis is not None for axis in self.axes.get(name, ()))

    def is_constant(self, name: str) -> bool:
        """Whether a value is an initializer."""
        return name in self.scope.constants

    def array(self, name: str) -> NDArray[Any] | None:
        """The value of a constant; None where it is computed, or there is none."""
        tensor = self.scope.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    # ---- what rules say ---------------------------------------------------------------------------------------------

    def give(self, node: onnx.NodeProto, axes: Sequence[Axis], output: int = 0) -> None:
        """Set the labels of an output; an axis of one index has none."""
        name = result(node, output)
        if not name:
            return
        for axis in axes:
            if axis is not None and len(axis) == 1:
                self.fix(axis, f"{name} has one channel")
        self.axes[name] = tuple(None if axis is None or len(axis) == 1 else axis for axis in axes)

    def join(self, first: Axis, second: Axis, why: str) -> Axis:
        """One axis that is both; what has no labels keeps the other from being cut, because of ``why``."""
        if first is None or second is None:
            self.fix(first if second is None else second, why)
            return None
        if len(first) != len(second):
            raise OpaqueError(f"{len(first)} channels meet {len(second)}")
        self.joined.append((first, second))
        return first

    def join_rows(self, block: Labels) -> Labels:
        """Join each row of a block (rows, size); the first label of each row, (rows,)."""
        leaders = np.ascontiguousarray(block[:, 0])
        self.joined.append((np.repeat(leaders, block.shape[1]), np.ascontiguousarray(block).reshape(-1)))
        return leaders

    def fix(self, axis: Axis, why: str) -> None:
        """Keep an axis from being cut."""
        if axis is not None:
            self.fixed.append((axis, why))

    def fix_all(self, axes: Sequence[Axis], why: str) -> None:
        """Keep all axes from being cut."""
        for axis in axes:
            self.fix(axis, why)

    def tag(self, axis: Axis, word: str) -> None:
        """Say what the channels of an axis are."""
        if axis is not None:
            self.tagged.append((axis, word))

    def reads(self, name: str, axis: int) -> None:
        """Say that a constant's axis is summed over."""
        if self.is_constant(name):
            self.read.add((name, axis % len(self.scope.constants[name].dims)))

    def keeps_some(self, axis: Axis, what: str) -> None:
        """Say that an axis may not become empty."""
        if axis is not None:
            self.whole.append((what, axis))

    def works(self, node: onnx.NodeProto, *sizes: tuple[int | None, Axis] | int | None) -> None:
        """Count multiply-adds: the product of sizes; a size with labels shrinks with them, one not known counts 1."""
        factor, labels = 1, []
        for entry in sizes:
            size, axis = entry if isinstance(entry, tuple) else (entry, None)
            if axis is not None:
                labels.append(axis)
            else:
                factor *= 1 if size is None else size
        self.work.append(Work(node_name(node), factor, tuple(labels)))

    def repair(self, function: Repair) -> None:
        """Have ``function`` change the present node when channels are cut."""
        self.repairs[self.index] = function


Rule = Callable[[Trace, onnx.NodeProto], None]
Rules = Mapping[tuple[str, str], Rule]


def node_name(node: onnx.NodeProto) -> str:
    """A node's name, or what it makes first."""
    return node.name or next(filter(None, node.output), node.op_type)


def merged(trace: Trace, node: onnx.NodeProto, names: Sequence[str], shape: Sequence[int | None]) -> Axes:
    """The labels of a value of ``shape`` for which the values ``names`` are broadcast, aligned at their last axes."""
    found: list[Axis] = []
    for place in range(-len(shape), 0):
        here: list[Axis] = []
        for name in names:
            dims = trace.shape(name)
            if -place <= len(dims) and dims[place] != 1:
                here.append(trace.of(name)[place])
        axis = here[0] if here else None
        for other in here[1:]:
            axis = trace.join(axis, other, f"it meets values at {node_name(node)} that are not channels")
        found.append(axis)
    return tuple(found)


def present(node: onnx.NodeProto) -> list[str]:
    """The inputs that a node has."""
    return [name for name in node.input if name]


def axis_of(node: onnx.NodeProto, default: int, rank: int) -> int:
    """The attribute ``axis``, counted from the first."""
    return int(attribute(node, "axis", default)) % rank


def follow(trace: Trace, node: onnx.NodeProto, index: int, axes: Sequence[Axis], *, size: int | None = None) -> None:
    """Have the sizes that an input gives follow the channels of ``axes``, or be ``size`` where there are channels.

    Of a constant, 0 and −1 stay; one that is computed is computed as before, and only then changed::

        sizes ──────────── Where (channels?, how many stay, ·) ── node
    """
    target = integers(trace, node, index)

    def repair(cutting: Cutting, node: onnx.NodeProto) -> None:
        new = [0 if axis is None else int(cutting.kept(axis).sum()) if size is None else size for axis in axes]
        if target is None:
            mask = np.array([axis is not None for axis in axes])
            cutting.compute_input(node, index, "Where", mask, np.array(new, np.int64))
            return
        both = zip(target, new, axes, strict=True)
        left = [old if axis is None or old in (0, -1) else now for old, now, axis in both]
        cutting.set_input(node, index, np.array(left, np.int64))

    trace.repair(repair)


def integers(trace: Trace, node: onnx.NodeProto, index: int, name: str = "") -> list[int] | None:
    """A list of whole numbers that is a constant input, or in old opsets the attribute ``name``; None if computed."""
    if operand(node, index):
        value = trace.array(operand(node, index))
        return None if value is None else [int(number) for number in value.reshape(-1)]
    found = attribute(node, name) if name else None
    return None if found is None else [int(number) for number in found]
