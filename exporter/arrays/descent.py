"""Codes and scales that are found one at a time, each where a product's error is least: coordinate descent.

The error is Σ ‖r − (W − W₀) x‖² over the inputs x of a product, r being what its output lacks while its weight is W₀.
Along one code or one scale that is a parabola, so the best value on the grid is known and no step makes it worse. Codes
of a column move together, one for each row (Behdin et al. 2023, "QuantEase"; Nair and Suggala 2024, "CDQuant"), then
the scales of a block, over and over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgepress.exporter.arrays.codes import Codes, spread

DAMPING = 0.01
"""Of the mean square of what goes in: how much it costs at least to leave the weight in full precision."""

_MOST = 0.99  # of a share: nothing is learned of inputs that tell nothing
_BLOCK = 64  # columns whose moves are passed on among themselves before all others hear of them


def damping_of(second: Tensor, fourth: float, count: int) -> float:
    """What it should cost to leave the weight where ``count`` inputs tell only so much of those to come.

    S = Σ x xᵀ / count of few inputs is nearer to that of all when a share of it is m I instead, m being its mean square
    (Ledoit and Wolf 2004, section 3.3): b² / d², where d² = ‖S − m I‖² and b² = Σ ‖x xᵀ − S‖² / count², which is how
    far S is off. A share is as much as a damping of share / (1 − share).

    Args:
        second: Σ x xᵀ, (columns, columns).
        fourth: Σ ‖x‖⁴.
        count: inputs.

    """
    mean = second.double() / count
    size = float(mean.square().sum())
    apart = size - float(mean.diagonal().mean()) ** 2 * len(mean)
    off = (fourth / count - size) / count
    share = min(max(off / max(apart, torch.finfo(torch.float64).tiny), 0.0), _MOST)
    return max(DAMPING, share / (1 - share))


def descend(
    start: Codes, full: Tensor, second: Tensor, missing: Tensor, *, sweeps: int, damping: float = DAMPING
) -> Codes:
    """The codes and scales after ``sweeps`` over all columns and blocks.

    ``full`` is the weight in full precision, float32 (rows, columns), and ``damping`` what it costs to leave that, in
    mean squares of what goes in; ``second`` Σ x xᵀ, (columns, columns), and ``missing`` Σ r xᵀ, (rows, columns), are
    those of the error above at ``start``. Zero points stay, and of a sparse scheme the codes that mean 0.
    """
    scheme, columns = start.scheme, full.shape[1]
    damping = damping * float(second.diagonal().mean()) + torch.finfo(torch.float32).tiny
    curve = second.double() + damping * torch.eye(columns, dtype=torch.float64, device=second.device)
    values = start.dequantize().double()
    slope = -missing.double() - damping * (full.double() - values)  # half the error's gradient, (rows, columns)
    zero_points = spread(start.zero_points, scheme, columns).double()
    scales = start.scales.double().clone()  # (rows, blocks)
    codes = start.codes.double()
    top = (1 << scheme.bits) - 1
    moves = codes != zero_points if scheme.zeros else torch.ones_like(codes, dtype=torch.bool)
    for _ in range(sweeps):
        wide = spread(scales, scheme, columns)
        for first in range(0, columns, _BLOCK):
            some = slice(first, first + _BLOCK)
            moved = _move_codes(
                codes[:, some], torch.where(moves, wide, 0)[:, some], slope[:, some], curve[some, some], top
            )
            slope += moved @ curve[some]
        width = columns if scheme.per_channel else scheme.block_size
        for block, first in enumerate(range(0, columns, width)):
            some = slice(first, first + width)
            level = codes[:, some] - zero_points[:, some]
            down = (slope[:, some] * level).sum(1)  # (rows,)
            power = ((level @ curve[some, some]) * level).sum(1)
            old = scales[:, block].clone()
            best = 1 - down / (old * power)  # of the old scale, which may be negative
            new = old * torch.where(old * power == 0, 1.0, best.clamp(0.5, 2))  # a part of the way is downhill too
            scales[:, slice(None) if scheme.per_channel else slice(block, block + 1)] = new[:, None]
            slope += ((new - old)[:, None] * level) @ curve[some]
    return Codes(codes.to(torch.uint8), scales.float(), start.zero_points, scheme)


def _move_codes(codes: Tensor, scales: Tensor, slope: Tensor, curve: Tensor, top: int) -> Tensor:
    """Move the codes of some columns in place, but where scales are 0; by how much values moved, (rows, some)."""
    here, moved = slope.clone(), torch.zeros_like(slope)
    for column in range(codes.shape[1]):
        scale, old = scales[:, column], codes[:, column].clone()
        best = old - here[:, column] / (curve[column, column] * torch.where(scale == 0, torch.inf, scale))
        codes[:, column] = best.round().clamp(0, top)
        moved[:, column] = (codes[:, column] - old) * scale
        here += moved[:, column, None] * curve[column]
    return moved
