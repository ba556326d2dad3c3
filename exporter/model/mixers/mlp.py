"""A multilayer perceptron, gated (Shazeer 2020) or not: ``down(activation(gate(x)) · up(x))``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from edgepress.exporter.model.description import Linear, Mixer, Source
from edgepress.exporter.model.mixers import CONTRIB, GraphWriter, MixerKind

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, Values

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True, kw_only=True)
class MLP(Mixer):
    """``down(activation(gate(x)) · up(x))``, or ``down(activation(up(x)))`` when there is no gate.

    What the gate gives is multiplied by ``gate_multiplier`` first.
    """

    scaled_by_token: ClassVar[bool] = True
    gate: Linear | None = None
    up: Linear
    down: Linear
    activation: Activation
    gate_multiplier: float = 1.0

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`."""
        return (self.up,) if self.gate is None else (self.gate, self.up), (self.down,)

    def source(self) -> Source | str:
        """``up``, where what it gives is multiplied; relu(x / s) = relu(x) / s for s > 0."""
        if self.gate is None and self.activation != "relu":
            return f"{self.activation} before it does not pass a scale on"
        return Source(self.up, slice(0, self.up.weight.shape[0]))

    def settings(self) -> tuple[object, ...]:
        """See :class:`Mixer`."""
        return self.activation, self.gate_multiplier


def steps(mlp: MLP, values: Values, x: Tensor, _ropes: Mapping[str, Rotary]) -> Steps:
    """The steps in torch."""
    from edgepress.exporter.model.operations import project

    projected = yield from project(mlp.input_projections, values, x)
    (y,) = yield from project((mlp.down,), values, activated(mlp, projected))
    return y


def activated(mlp: MLP, projected: list[Tensor]) -> Tensor:
    """What goes into ``down``: ``activation(gate) · up``, or ``activation(up)`` when that is all that is projected."""
    from torch.nn import functional

    activations: dict[Activation, Callable[[Tensor], Tensor]] = {
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "relu": functional.relu,
    }
    activation, up = activations[mlp.activation], projected[-1]
    return activation(up) if mlp.gate is None else activation(projected[0] * mlp.gate_multiplier) * up


def write(mlp: MLP, g: GraphWriter, name: str, x: str, _states: Sequence[tuple[str, str]]) -> str:
    """``activation(gate) · up``; gate and up stay apart: fusing them is measured to gain nothing."""
    up = g.linear(mlp.up, x)
    if mlp.gate is None:
        return _activation(mlp.activation, g, up, f"{name}.act")
    gate = g.linear(mlp.gate, x)
    if mlp.gate_multiplier != 1.0:
        factor = g.constant(f"gate_multiplier_{mlp.gate_multiplier:.9g}", np.array(mlp.gate_multiplier, np.float32))
        gate = g.node("Mul", [gate, factor], f"{name}.multiplied")
    return g.node("Mul", [_activation(mlp.activation, g, gate, f"{name}.act"), up], f"{name}.mixed")


def _activation(kind: Activation, g: GraphWriter, x: str, output: str) -> str:
    if kind == "silu":  # x · sigmoid(1.0 · x)
        return g.node("QuickGelu", [x], output, domain=CONTRIB, alpha=1.0)
    if kind == "relu":
        return g.node("Relu", [x], output)
    return g.node("Gelu", [x], output, approximate="tanh" if kind == "gelu_tanh" else "none")


MIXER = MixerKind(MLP, steps=steps, write=write)
