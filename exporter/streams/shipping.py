"""A graph as it will ship, in torch, its codes and scales open to methods that learn.

Two forms. *Channels*: the graph of integers that :mod:`~edgepress.exporter.graph.qdq` writes, run as it is, so that
what is trained goes through exactly the rounding that ships. *Blocks*: the float graph whose weights are replaced by
what their codes stand for.

:class:`Shipped` is a mapping of constants to stand in for those of its network
(:meth:`~edgepress.exporter.interpreter.network.Network.run`): each is made when it is asked for, of what stands open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.interpreter.network import Network, Step
from edgepress.exporter.interpreter.operators.quantized import round_through
from edgepress.exporter.streams.learned import LearnedCodes

Form = Literal["channels", "blocks"]
_WITHIN = 0.49  # of a step: how far a weight is kept from the code that was chosen for it


class ChannelWeight:
    """A weight with one scale a channel: codes are ``clip(round(latent / scale))``.

    ``latent`` has the shape of the weight, ``scale`` is (channels,) along ``axis``; ``prefix`` begins the names of its
    constants. While ``soft`` is there, AdaRound's V of the weight's shape, codes are ``floor(latent / scale) + h(V)``.
    """

    def __init__(self, name: str, prefix: str, latent: Tensor, scale: Tensor, *, axis: int, bits: int) -> None:
        self.name, self.prefix, self.axis, self.bits = name, prefix, axis, bits
        self.latent, self.start = latent, scale
        self._before = latent
        self.factor = torch.ones_like(scale)
        self.soft: Tensor | None = None

    @property
    def scale(self) -> Tensor:
        """Scales, (channels,)."""
        return self.start * self.factor

    def along(self, values: Tensor) -> Tensor:
        """Values (channels,) so that they broadcast against the weight."""
        shape = [1] * self.latent.dim()
        shape[self.axis] = -1
        return values.reshape(shape)

    def codes(self) -> Tensor:
        """Integers in float32, with gradients, of the weight's shape."""
        top, exact = 1 << (self.bits - 1), self.latent / self.along(self.scale)
        found = round_through(exact) if self.soft is None else exact.floor() + rectified(self.soft)
        return found.clamp(-top, top - 1)

    def value(self) -> Tensor:
        """What the codes stand for."""
        return self.codes() * self.along(self.scale)

    def makers(self) -> dict[str, Callable[[], Tensor]]:
        """The constants of the graph that it makes."""
        return {f"{self.prefix}.integers": self.codes, f"{self.prefix}.scale": lambda: self.scale}

    @property
    def reads(self) -> str:
        """The value that a node reads."""
        return f"{self.prefix}.back"

    def settle(self) -> None:
        """Keep scales above 0."""
        with torch.no_grad():
            self.factor.clamp_(min=1e-3)

    def open(self, *, latent: bool = False) -> dict[str, Tensor]:
        """Have scales learn, and with ``latent`` the weight behind the codes; what is trained, by part."""
        self.factor = self.factor.clone().requires_grad_()
        if latent:
            self._before = self.latent
            self.latent = self.latent.clone().requires_grad_()
        return {"factor": self.factor, **({"latent": self.latent} if latent else {})}

    def undo(self) -> None:
        """End learning, with nothing learned."""
        self.latent, self.factor, self.soft = self._before, torch.ones_like(self.start), None

    def keep(self) -> None:
        """End learning: the codes are what they are, and later methods begin there."""
        with torch.no_grad():
            scale, codes = self.along(self.scale), self.codes()
            codes = codes.round()
            exact = self.latent / scale
            self.latent = (torch.clamp(exact, codes - _WITHIN, codes + _WITHIN) * scale).detach()
            self.start, self.factor, self.soft = self.scale.detach(), torch.ones_like(self.start), None
            self._before = self.latent


def rectified(v: Tensor) -> Tensor:
    """AdaRound's h(V) = clip(1.2 σ(V) − 0.1, 0, 1) (Nagel et al. 2020, equation 23)."""
    return (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)


class BlockWeight:
    """A weight in codes by blocks of columns, of its rows as kernels have them; the graph may store the transpose."""

    def __init__(self, name: str, full: Tensor, codes: Codes, dims: Sequence[int], *, transposed: bool) -> None:
        self.name, self.full, self.dims, self.transposed = name, full, tuple(dims), transposed
        self.learned = LearnedCodes(codes, None, torch.ones(0))
        self.put(codes)

    @property
    def reads(self) -> str:
        """The value that a node reads."""
        return self.name

    def put(self, codes: Codes) -> None:
        """Take these codes, (rows, columns)."""
        self.learned = LearnedCodes(codes, None, torch.ones(len(codes.scales), 1))
        self._found: Codes | None = None

    def open(self) -> dict[str, Tensor]:
        """Have codes and scales learn, from the weight in full precision on; what is trained, by part."""
        self.learned = LearnedCodes.of(self.learned.start, self.full)
        positions = self.learned.positions
        return {"factors": self.learned.factors, **({} if positions is None else {"positions": positions})}

    def found(self, codes: Codes) -> None:
        """Have these codes, (rows, columns), until they are kept or undone."""
        self._found = codes

    def undo(self) -> None:
        """End learning, with nothing learned."""
        self.put(self.learned.start)

    def value(self) -> Tensor:
        """What the codes stand for, as the graph stores it."""
        rows = self.learned.dequantize() if self._found is None else self._found.dequantize()
        return rows.T if self.transposed else rows.reshape(self.dims)

    def makers(self) -> dict[str, Callable[[], Tensor]]:
        """The constant of the graph that it makes."""
        return {self.name: self.value}

    def settle(self) -> None:
        """Keep positions in the codes' range."""
        self.learned.keep_in_range()

    def keep(self) -> None:
        """End learning."""
        self.put(self.learned.round() if self._found is None else self._found)


class Range:
    """The scale of activations that share one, ``names``; their zero point stays. ``factor`` is what is learned.

    All that was learned, ``learned``, is at most ``most``: a range that ends where a Clip does must not grow.
    """

    def __init__(self, names: Sequence[str], scale: Tensor, *, most: float = math.inf) -> None:
        self.names, self.start, self.most = tuple(names), scale, most
        self.factor, self.learned = torch.ones(()), 1.0

    @property
    def scale(self) -> Tensor:
        """One number."""
        return self.start * self.factor

    def makers(self) -> dict[str, Callable[[], Tensor]]:
        """The constants of the graph that it makes."""
        return {f"{name}.scale": lambda: self.scale for name in self.names}

    def open(self) -> Tensor:
        """Have the scale learn; what is trained."""
        self.factor = self.factor.clone().requires_grad_()
        return self.factor

    def undo(self) -> None:
        """End learning, with nothing learned."""
        self.factor = torch.ones(())

    def settle(self) -> None:
        """Keep the scale above 0, and the range where it may be."""
        with torch.no_grad():
            self.factor.clamp_(1e-3, self.most / self.learned)

    def keep(self) -> None:
        """End learning."""
        self.learned *= float(self.factor.detach())
        self.start, self.factor = self.scale.detach(), torch.ones(())


class Bias:
    """A bias in steps of input · weight; ``prefix`` begins the names of its constants, none where it stays in float."""

    def __init__(self, name: str, latent: Tensor, prefix: str = "") -> None:
        self.name, self.latent, self.prefix = name, latent, prefix
        self.weight: ChannelWeight | None = None
        self.input: Callable[[], Tensor] | None = None

    def _scale(self) -> Tensor:
        if self.weight is None or self.input is None:
            raise ValueError(f"{self.name} is in float")
        return self.input() * self.weight.scale

    def makers(self) -> dict[str, Callable[[], Tensor]]:
        """The constants of the graph that it makes."""
        if not self.prefix:
            return {self.name: lambda: self.latent}
        return {
            f"{self.prefix}.integers": lambda: round_through(self.latent / self._scale()),
            f"{self.prefix}.scale": self._scale,
        }

    def keep(self) -> None:
        """End learning."""
        self.latent = self.latent.detach()


@dataclass(frozen=True)
class LayerOf:
    """A node that multiplies by a weight: ``output`` is what it makes, ``shown`` the same past its integers."""

    step: Step
    weight: ChannelWeight | BlockWeight
    bias: Bias | None
    output: str
    shown: str


@dataclass
class Shipped(Mapping[str, Tensor]):
    """The network that ships, and what of its constants is open; see the module."""

    form: Form
    network: Network
    weights: dict[str, ChannelWeight | BlockWeight]
    biases: dict[str, Bias] = field(default_factory=dict)
    ranges: list[Range] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._makers: dict[str, Callable[[], Tensor]] = {}
        for one in (*self.weights.values(), *self.biases.values(), *self.ranges):
            self._makers |= one.makers()

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def layers(self) -> list[LayerOf]:
        """The nodes that multiply by one of the weights, in order."""
        reads = {weight.reads: weight for weight in self.weights.values()}
        biases = {f"{bias.prefix}.back" if bias.prefix else bias.name: bias for bias in self.biases.values()}
        shown = self.shown()
        found = []
        for step in self.network.between(self.network.inputs, self.network.outputs):
            for index, name in enumerate(step.inputs):
                if index and name in reads:
                    bias = biases.get(step.inputs[2]) if len(step.inputs) > 2 else None
                    output = step.outputs[0]
                    found.append(LayerOf(step, reads[name], bias, output, shown.get(output, output)))
        return found

    def shown(self) -> dict[str, str]:
        """What a value is past its integers, by its name before them."""
        steps = self.network.steps
        codes = {s.inputs[0]: s.outputs[0] for s in steps if s.key.endswith("QuantizeLinear") and "De" not in s.key}
        back = {s.inputs[0]: s.outputs[0] for s in steps if s.key.endswith("DequantizeLinear")}
        return {value: back[integers] for value, integers in codes.items() if integers in back}
