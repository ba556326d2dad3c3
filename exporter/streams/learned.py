"""Codes and scales that are trained by gradients: what the methods that train share.

A code is the rounding of a position, a number in units of the block's step; the gradient goes straight through the
rounding (Bengio et al. 2013), so that a position moves until its code flips. Scales move by a factor that begins at 1,
so that one learning rate fits every block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgepress.errors import InputError
from edgepress.exporter.arrays.activations import BATCH_TOKENS
from edgepress.exporter.arrays.codes import Codes, spread
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.model.parts.primitives import Weight

_WITHIN = 0.49  # how far a position may be from the code that it rounds to, at the start and at either end of the range
_HELD_OUT = 16  # one sequence in so many picks the best state
_MOST_HELD_OUT = 32  # sequences
_WARM_UP = 20  # steps
BETAS = (0.9, 0.99)  # Adam's


@dataclass(frozen=True)
class LearnedCodes:
    """A quantized weight in training.

    ``positions`` float32 (rows, columns) round to the codes and are None when the codes stay as ``start`` has them;
    ``factors`` (rows, blocks), or (rows, 1) when the blocks of a row share their scale, multiply the scales of
    ``start``. Zero points stay, and of a sparse scheme the codes that mean 0.
    """

    start: Codes
    positions: Tensor | None
    factors: Tensor

    @classmethod
    def of(cls, start: Codes, full: Tensor | None = None) -> LearnedCodes:
        """Begin at ``start``; with ``full``, the weight in full precision, the codes are trained too.

        A position begins at the weight itself, or as near to it as the code of ``start`` allows.
        """
        rows, blocks = start.scales.shape
        factors = torch.ones(rows, 1 if start.scheme.per_channel else blocks, device=start.scales.device)
        if full is None:
            return cls(start, None, factors.requires_grad_())
        columns = full.shape[1]
        scales, zero_points = (spread(y, start.scheme, columns) for y in (start.scales, start.zero_points))
        exact = torch.where(scales == 0, 0, full / scales) + zero_points  # (rows, columns)
        codes = start.codes.float()
        positions = torch.clamp(exact, codes - _WITHIN, codes + _WITHIN)
        return cls(start, positions.requires_grad_(), factors.requires_grad_())

    def dequantize(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Weights of ``rows``, dequantized, (rows, columns), differentiable."""
        scales = (self.start.scales * self.factors)[rows]  # (rows, blocks)
        values = self.start.codes[rows] if self.positions is None else self.positions[rows]
        if self.positions is not None and self.start.scheme.zeros:  # what is 0 on purpose gets no gradient
            zero_points = spread(self.start.zero_points[rows], self.start.scheme, values.shape[1])
            values = torch.where(self.start.codes[rows] == zero_points, zero_points.float(), values)
        apply: Callable[..., Tensor] = _Dequantize.apply  # torch does not annotate it
        return apply(values, scales, self.start.zero_points[rows], self.start.scheme)

    def keep_in_range(self) -> None:
        """Clip positions to the codes' range, so that gradients can still move them."""
        if self.positions is not None:
            with torch.no_grad():
                self.positions.clamp_(-_WITHIN, top_code(self.start.scheme) + _WITHIN)

    def round(self) -> Codes:
        """What has been learned, as it will be stored."""
        with torch.no_grad():
            codes = self.start.codes if self.positions is None else rounded(self.positions, self.start.scheme)
            scales = self.start.scales * self.factors
        return Codes(codes.to(torch.uint8), scales, self.start.zero_points, self.start.scheme)


def top_code(scheme: Scheme) -> int:
    """The largest code."""
    return (1 << scheme.bits) - 1


def rounded(positions: Tensor, scheme: Scheme) -> Tensor:
    """Codes of ``positions``, float32."""
    return positions.round().clamp_(0, top_code(scheme))


def split(
    sequences: int, seed: int, method: str, asked_by: str = "[calibration] training_tokens"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which calibration sequences are trained on, and which are held out; ``asked_by`` is the option of their number.

    Raises:
        InputError: there is only one.

    """
    if sequences < 2:
        raise InputError(
            f"{method} needs two calibration sequences or more, one of them to be held out, and there is one; raise "
            f"{asked_by} or name more text"
        )
    count = min(max(1, sequences // _HELD_OUT), _MOST_HELD_OUT)
    order = np.random.default_rng(seed).permutation(sequences)
    return np.sort(order[count:]), np.sort(order[:count])


def share_of_rate(step: int, steps: int) -> float:
    """Part of the learning rate that a step takes: a linear warm-up, then a cosine towards 0."""
    return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def draw(sequences: NDArray[np.int64], count: int, seed: tuple[int, int]) -> NDArray[np.int64]:
    """``count`` of the sequences, or all when there are fewer, in their order."""
    return np.sort(np.random.default_rng(seed).choice(sequences, min(count, len(sequences)), replace=False))


def pieces(sequences: NDArray[np.int64], length: int) -> list[NDArray[np.int64]]:
    """The sequences in parts that are computed at once, which bounds the memory of activations."""
    size = max(1, BATCH_TOKENS // length)
    return [sequences[start : start + size] for start in range(0, len(sequences), size)]


def why_too_large(name: str, weights: Iterable[Weight], most: int) -> str:
    """Why the method ``name`` does not train these ``weights``; "" where there are at most ``most``, or that is 0.

    ``most`` is its option ``most_weights``.
    """
    count = sum(math.prod(weight.shape) for weight in weights)
    if not 0 < most < count:
        return ""
    return (
        f"it would train {count:,} weights, and [options.{name}] most_weights is {most:,}; "
        "raise it where there is a GPU, or time"
    )


class _Dequantize(torch.autograd.Function):
    """``(round(positions) − zero_points) · scales``, as if rounding were the identity in the backward pass.

    Keeps the codes in a byte each for the backward pass. Uint8 ``positions`` are codes, and have no gradient.
    """

    @staticmethod
    def forward(ctx: Any, positions: Tensor, scales: Tensor, zero_points: Tensor, scheme: Scheme) -> Tensor:
        codes = positions if positions.dtype == torch.uint8 else rounded(positions, scheme).to(torch.uint8)
        ctx.save_for_backward(codes, scales, zero_points)
        ctx.scheme = scheme
        return Codes(codes, scales, zero_points, scheme).dequantize()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        (gradient,) = gradients  # (rows, columns)
        codes, scales, zero_points = ctx.saved_tensors
        (rows, columns), (_, blocks), size = codes.shape, scales.shape, ctx.scheme.block_size

        def blocked(x: Tensor) -> Tensor:
            padding = blocks * size - columns
            return (functional.pad(x, (0, padding)) if padding else x).reshape(rows, blocks, size)

        gradient = blocked(gradient)
        for_scales = (gradient * (blocked(codes) - zero_points.float()[:, :, None])).sum(-1)  # (rows, blocks)
        if not ctx.needs_input_grad[0]:
            return None, for_scales, None, None
        for_positions = (gradient * scales[:, :, None]).reshape(rows, blocks * size)[:, :columns]
        return for_positions, for_scales, None, None
