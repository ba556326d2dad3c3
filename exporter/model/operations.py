"""What decoders are computed of in torch: projections a step at a time, norms, rotary tables, rotations of a basis.

Free functions over activations; weights come from a callable, so that the same code runs the checkpoint's weights,
quantized ones and ones that are being learned.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.model.description import Rotation
from edgepress.exporter.model.parts.primitives import Linear, Norm, Weight
from edgepress.exporter.model.rotation import factors

Values = Callable[[Weight], Tensor]
"""Gives a weight in float32, in its own shape, on the device of the activations."""

Step = tuple[tuple[Linear, ...], Tensor]
"""Projections that share their input, and that input, (sequences, length, columns)."""

Steps = Generator[Step, Tensor, Tensor]
"""Yields each :data:`Step` before it is computed, is sent what is to go in, and returns the output."""

StepsWithSide = Generator[Step, Tensor, tuple[Tensor, Tensor]]
"""As :data:`Steps`; returns the output and the columns beside the stream."""

Tap = Callable[[tuple[Linear, ...], Tensor], Tensor]
"""Sees a :data:`Step` and returns what is to go into the projections."""

Added = Callable[[Tensor], Tensor]
"""Sees what is added to the residual stream, (sequences, length, hidden), and returns what is added in its place."""


@dataclass(frozen=True)
class Rotary:
    """Tables of one rope for the positions of a sequence, each (length, rotated / 2); see :class:`Rope` for pairs.

    ``query_factors`` (length,) multiply the queries, if any do.
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool = False
    query_factors: Tensor | None = None


def project(group: tuple[Linear, ...], values: Values, x: Tensor) -> Generator[Step, Tensor, list[Tensor]]:
    """What projections that share their input give.

    Their weights are asked for after the step was answered, so that they can be made in between.
    """
    x = yield group, x
    return [linear_forward(linear, values, x) for linear in group]


def linear_forward(linear: Linear, values: Values, x: Tensor) -> Tensor:
    """``x Wᵀ + b``, (…, columns) → (…, rows)."""
    return functional.linear(x, values(linear.weight), None if linear.bias is None else values(linear.bias))


def norm_forward(norm: Norm | None, values: Values, x: Tensor) -> Tensor:
    """RMS or layer normalization over the last dimension; the identity when there is none.

    x is (…, width), or (…, heads, width) where gain and bias have a row for each head.
    """
    if norm is None:
        return x
    width = (x.shape[-1],)
    gain, bias = values(norm.weight), None if norm.bias is None else values(norm.bias)
    if gain.shape != width:
        y = _normalized(norm, x) * gain.reshape(-1, *width)
        return y if bias is None else y + bias.reshape(-1, *width)
    if norm.kind == "layer":
        return functional.layer_norm(x, width, gain, bias, norm.epsilon)
    return functional.rms_norm(x, width, gain, norm.epsilon)


def _normalized(norm: Norm, x: Tensor) -> Tensor:
    """The normalization of ``norm`` without its gain and bias, over the last dimension."""
    if norm.kind == "layer":
        return functional.layer_norm(x, x.shape[-1:], eps=norm.epsilon)
    return functional.rms_norm(x, x.shape[-1:], eps=norm.epsilon)


def rotate(rotation: Rotation, x: Tensor, *, back: bool = False) -> Tensor:
    """``x (A ⊗ B)``, or ``x (A ⊗ B)ᵀ`` to go ``back``; x (…, hidden)."""
    left, right = (torch.from_numpy(factor).to(x) for factor in factors(rotation))
    matrix = x.reshape(*x.shape[:-1], rotation.left, rotation.right)
    return (left @ matrix @ right.T if back else left.T @ matrix @ right).reshape(x.shape)


def run(steps: Steps, tap: Tap | None = None) -> Tensor:
    """Compute all steps to the end; ``tap`` sees each."""
    try:
        step = next(steps)
        while True:
            step = steps.send(step[1] if tap is None else tap(*step))
    except StopIteration as end:
        output: Tensor = end.value
        return output
