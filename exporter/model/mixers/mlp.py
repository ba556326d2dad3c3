"""A multilayer perceptron, gated (Shazeer 2020) or not: ``down(activation(gate(x)) · up(x))``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.mixers import CONTRIB, MixerKind, Writer
from edgepress.exporter.model.parts.primitives import Linear, Norm, Source, Weight

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, Values

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "xielu"]

_BETA, _EPSILON = 0.5, -1e-6  # of xIELU


@dataclass(frozen=True, kw_only=True)
class MLP(Mixer):
    """``down(activation(gate(x)) · up(x))``, or ``down(activation(up(x)))`` when there is no gate.

    What the gate gives is multiplied by ``gate_multiplier`` first. With ``sparsity`` s > 0 it is g = relu(g − c), where
    c leaves so large a share of a token's g below it as if they were normally distributed: c = mean + z · deviation, z
    being the normal distribution's quantile at s (Gemma 3n, Google 2025). ``inner_norm`` is of what goes into ``down``,
    as BitNet has it.

    ``relu2`` is relu(x)² (So et al. 2021). ``xielu`` (Huang and Schlag 2024) has two learned numbers, (1,) each, with
    α₊ = softplus(``positive``), α₋ = β + softplus(``negative``), β = 0.5: α₊ x² + β x above 0, and
    α₋ (eˣ − 1 − x) + β x elsewhere.
    """

    scaled_by_token: ClassVar[bool] = True
    gate: Linear | None = None
    up: Linear
    positive: Weight | None = None
    negative: Weight | None = None
    inner_norm: Norm | None = None
    down: Linear
    activation: Activation
    gate_multiplier: float = 1.0
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        if (self.activation == "xielu") != (self.positive is not None and self.negative is not None):
            raise ValueError("xIELU has two learned numbers, and other activations have none")
        if self.sparsity and self.gate is None:
            raise ValueError("there is no gate that could be sparse")

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`."""
        return (self.up,) if self.gate is None else (self.gate, self.up), (self.down,)

    def source(self) -> Source | str:
        """``up``, where what it gives is multiplied; relu(x / s) = relu(x) / s for s > 0."""
        if self.inner_norm is not None:
            return "the norm before it does not pass a scale on"
        if self.gate is None and self.activation != "relu":
            return f"{self.activation} before it does not pass a scale on"
        return Source(self.up, slice(0, self.up.weight.shape[0]))

    def settings(self) -> tuple[object, ...]:
        """See :class:`Mixer`."""
        return self.activation, self.gate_multiplier, self.sparsity

    @property
    def quantile(self) -> float:
        """Deviations above the mean from which on something is left of the gate."""
        return NormalDist().inv_cdf(self.sparsity)


def steps(mlp: MLP, values: Values, x: Tensor, _ropes: Mapping[str, Rotary]) -> Steps:
    """The steps in torch."""
    from edgepress.exporter.model.operations import norm_forward, project

    projected = yield from project(mlp.input_projections, values, x)
    inner = norm_forward(mlp.inner_norm, values, activated(mlp, values, projected))
    (y,) = yield from project((mlp.down,), values, inner)
    return y


def activated(mlp: MLP, values: Values, projected: list[Tensor]) -> Tensor:
    """What goes into ``down``: ``activation(gate) · up``, or ``activation(up)`` when that is all that is projected."""
    from torch.nn import functional

    activations: dict[Activation, Callable[[Tensor], Tensor]] = {
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "relu": functional.relu,
        "relu2": lambda x: functional.relu(x).square(),
        "xielu": lambda x: _xielu(mlp, values, x),
    }
    activation, up = activations[mlp.activation], projected[-1]
    if mlp.gate is None:
        return activation(up)
    gate = projected[0] * mlp.gate_multiplier
    if mlp.sparsity:
        cutoff = gate.mean(-1, keepdim=True) + mlp.quantile * gate.std(-1, keepdim=True, correction=0)
        gate = functional.relu(gate - cutoff)
    return activation(gate) * up


def _xielu(mlp: MLP, values: Values, x: Tensor) -> Tensor:
    import torch
    from torch.nn import functional

    assert mlp.positive is not None
    assert mlp.negative is not None
    positive = functional.softplus(values(mlp.positive))
    negative = _BETA + functional.softplus(values(mlp.negative))
    below = x.clamp(max=_EPSILON)
    return torch.where(x > 0, positive * x * x, negative * (torch.expm1(below) - x)) + _BETA * x


def write(mlp: MLP, g: Writer, name: str, x: str, _states: Sequence[tuple[str, str]]) -> str:
    """``activation(gate) · up``; gate and up stay apart: fusing them is measured to gain nothing."""
    return g.norm(mlp.inner_norm, _write_activated(mlp, g, name, x), f"{name}.inner_norm")


def _write_activated(mlp: MLP, g: Writer, name: str, x: str) -> str:
    up = g.linear(mlp.up, x)
    if mlp.gate is None:
        return _activation(mlp, g, up, f"{name}.act")
    gate = g.linear(mlp.gate, x)
    if mlp.gate_multiplier != 1.0:
        factor = g.constant(f"gate_multiplier_{mlp.gate_multiplier:.9g}", np.array(mlp.gate_multiplier, np.float32))
        gate = g.node("Mul", [gate, factor], f"{name}.multiplied")
    if mlp.sparsity:
        gate = _write_cut(mlp, g, gate, name)
    return g.node("Mul", [_activation(mlp, g, gate, f"{name}.act"), up], f"{name}.mixed")


def _write_cut(mlp: MLP, g: Writer, gate: str, name: str) -> str:
    """What of the gate is above the cutoff: ::

    gate ┬ ReduceMean ┬ Sub ┬──────────────────────────┬ Sub ─ Relu
         └────────────┘     └ ReduceL2 ─ Mul (z / √n) ─┘
    """
    last = g.constant("axis_2", np.array([2], np.int64))  # not -1, which is the value of logits_start
    mean = g.node("ReduceMean", [gate, last], f"{name}.mean", keepdims=1)
    centred = g.node("Sub", [gate, mean], f"{name}.centred")
    width = mlp.up.weight.shape[0]
    factor = g.constant(f"cutoff_{mlp.sparsity:.9g}_of_{width}", np.array(mlp.quantile / width**0.5, np.float32))
    length = g.node("ReduceL2", [centred, last], f"{name}.length", keepdims=1)
    cutoff = g.node("Mul", [length, factor], f"{name}.cutoff")
    return g.node("Relu", [g.node("Sub", [centred, cutoff], f"{name}.above")], f"{name}.sparse")


def _activation(mlp: MLP, g: Writer, x: str, output: str) -> str:
    kind = mlp.activation
    if kind == "xielu":
        return _write_xielu(mlp, g, x, output)
    if kind == "relu2":
        positive = g.node("Relu", [x], f"{output}.relu")
        return g.node("Mul", [positive, positive], output)
    if kind == "silu":  # x · sigmoid(1.0 · x)
        return g.node("QuickGelu", [x], output, domain=CONTRIB, alpha=1.0)
    if kind == "relu":
        return g.node("Relu", [x], output)
    return g.node("Gelu", [x], output, approximate="tanh" if kind == "gelu_tanh" else "none")


def _write_xielu(mlp: MLP, g: Writer, x: str, output: str) -> str:
    """With p = max(x, 0) and n = min(x, 0), as each part is 0 where the other one is not: ::

        α₊ p² + α₋ (eⁿ − 1 − n) + β x

    eⁿ − 1 loses what is below float32's epsilon of 1 for n near 0, which is as much below what n itself adds.
    """
    assert mlp.positive is not None
    assert mlp.negative is not None
    beta, one, zero = (g.constant(f"xielu_{n:g}", np.array(n, np.float32)) for n in (_BETA, 1, 0))
    alphas = [g.node("Softplus", [g.weight(w)], f"{w.name}.softplus") for w in (mlp.positive, mlp.negative)]
    above, below = g.node("Max", [x, zero], f"{output}.above"), g.node("Min", [x, zero], f"{output}.below")
    curved = g.node("Mul", [g.node("Mul", [above, above], f"{output}.square"), alphas[0]], f"{output}.positive")
    grown = g.node("Sub", [g.node("Exp", [below], f"{output}.exp"), one], f"{output}.grown")
    alpha = g.node("Add", [alphas[1], beta], f"{output}.alpha")
    bent = g.node("Mul", [g.node("Sub", [grown, below], f"{output}.bent"), alpha], f"{output}.negative")
    straight = g.node("Mul", [x, beta], f"{output}.straight")
    return g.node("Add", [g.node("Add", [curved, bent], f"{output}.curved"), straight], output)


MIXER = MixerKind(MLP, steps=steps, write=write)
