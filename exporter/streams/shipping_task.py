"""What a method that works on a graph is given: the float network, feeds, and what ships of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from torch import Tensor

from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.interpreter.network import Feed, Network
from edgepress.exporter.streams.distilling import Match
from edgepress.exporter.streams.shipping import Form, Shipped
from edgepress.terminal.progress import Progress, silent


@dataclass(frozen=True)
class Coded:
    """How a weight that ships in blocks is stored: ``rows`` of it (0: as many as its first axis is long).

    The graph has them as kernels do, or the transpose.
    """

    scheme: Scheme
    transposed: bool = False
    rows: int = 0


@dataclass
class ShippingTask:
    """A graph while it is prepared, rounded and repaired.

    ``teacher`` is the float network as it came; ``network`` the same with what was changed before rounding, in
    ``changed`` (constants), ``relus`` (nodes that became Relu) and ``products`` (values that some nodes read times a
    constant). ``ship`` makes what ships of that; ``shipped`` is
    it, once it is there. ``coded`` says how weights are stored in blocks. ``seed`` makes draws, ``folder`` keeps
    states, ``notes`` are sentences for the report.
    """

    form: Form
    teacher: Network
    network: Network
    feeds: Sequence[Feed]
    matches: Sequence[Match]
    ship: Callable[[ShippingTask], Shipped]
    folder: Path
    coded: Mapping[str, Coded] = field(default_factory=dict)
    progress: Progress = silent
    seed: int = 0
    changed: dict[str, Tensor] = field(default_factory=dict)
    relus: set[str] = field(default_factory=set)
    products: list[onnx.NodeProto] = field(default_factory=list)
    readers: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _shipped: Shipped | None = None

    @property
    def shipped(self) -> Shipped:
        """What ships; made of the float network as it is when this is first asked for."""
        if self._shipped is None:
            self._shipped = self.ship(self)
        return self._shipped

    def put(self, name: str, value: Tensor) -> None:
        """Change a constant of the float network, before anything is rounded."""
        if self._shipped is not None:
            raise ValueError(f"{name} is rounded already")
        self.changed[name] = value
        self.network.constants[name] = value

    def multiply(self, value: str, by: Tensor, readers: Sequence[str]) -> None:
        """Have the nodes of these names read ``value`` times a constant in the place of their first input."""
        output, factor = f"{value}.scaled", f"{value}.factor"
        node = onnx.helper.make_node("Mul", [value, factor], [output], name=output)
        self.put(factor, by)
        self.products.append(node)
        self.readers |= dict.fromkeys(readers, output)
        self.network.insert(node, readers)

    def make_relu(self, name: str) -> None:
        """Make a node of the float network, one that only clips, Relu."""
        self.relus.add(name)
        self.network.make_relu(name)
