"""Columns rounded one after the other, each corrected for the errors of those before it: used by GPTQ and SparseGPT.

Babai's nearest plane algorithm, which gives GPTQ's codes (:mod:`.round.gptq`) and, where some weights become 0, those
of SparseGPT.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.parallel import ahead, each, pieces
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods.kinds import Method, load_method

_BLOCK = 64  # columns whose errors are passed on among themselves before all others hear of them
_CHOICE = 16  # columns of a block that are chosen from at once, when some weights become 0
_STRIP = 128  # rows of a matrix that are moved at a time
_PIECE = 1 << 19  # weights whose scales are searched at a time


Keep = Callable[[slice, Tensor, Tensor, Tensor], Tensor]
"""Which weights of some columns do not become 0: ``keep(some, weights, targets, factor)`` → bool (some, rows).

``weights`` (columns, rows) and ``factor`` (columns, columns) are those of :func:`nearest_plane`; ``targets``
(some, rows) are these columns with the errors of those after them, but none of their own.
"""


def visiting_order(importance: Tensor, *, act_order: bool, group: int = 1) -> Tensor:
    """Columns in the order of :func:`nearest_plane`, which rounds the last first; int64 (columns,).

    ``group`` consecutive columns stay together and in order; those that fill no group are rounded first. Without
    ``act_order`` groups are rounded from the first to the last, with it from the greatest sum of ``importance``
    (columns,) to the least.
    """
    whole = len(importance) // group * group
    groups = torch.arange(whole, device=importance.device).view(-1, group)
    sums = importance[:whole].view(-1, group).sum(1)
    groups = groups[torch.argsort(sums, stable=True)] if act_order else groups.flip(0)
    return torch.cat([groups.flatten(), torch.arange(whole, len(importance), device=importance.device)])


def compensate(weight: Tensor, start: Codes, factor: Tensor, order: Tensor, keep: Keep | None = None) -> Codes:
    """Round ``weight`` (rows, columns) with the scales of ``start``, the last column of ``order`` first.

    ``factor`` is that of the Hessian in this order. With ``keep`` some weights become 0, and the columns that are left
    make up for that too.
    """
    scheme = start.scheme
    block = order // scheme.block_size  # (columns,)
    per_column = (y.T.contiguous()[block] for y in (start.scales, start.zero_points.float()))
    top = (1 << scheme.bits) - 1
    codes = nearest_plane(transposed(weight)[order], factor, *per_column, top=top, keep=keep)
    placed = torch.empty_like(codes)
    placed[order] = codes
    return Codes(transposed(placed), start.scales, start.zero_points, scheme)


def start_codes(weight: Tensor, scheme: Scheme, moments: Moments, method: str = "rtn") -> Codes:
    """Round to nearest, scales searched with columns weighted by E[x²]: the start of methods that then change codes."""
    rounding = load_method(method)
    if not isinstance(rounding, Method):
        raise TypeError(f"{method} does not round rows")
    (rows, columns), importance = weight.shape, moments.mean_square.cpu().numpy()
    array = weight.cpu().numpy()

    def quantize_piece(piece: slice) -> Codes:
        return Codes.unpack(rounding.quantize(array[piece], scheme, importance), scheme, columns)

    found = each(quantize_piece, pieces(rows, max(1, _PIECE // columns)), torch.device("cpu"))
    parts = zip(*((codes.codes, codes.scales, codes.zero_points) for codes in found), strict=True)
    codes, scales, zero_points = (torch.cat(part) for part in parts)
    return Codes(codes, scales, zero_points, scheme).to(weight.device)


def in_order(matrix: Tensor, order: Tensor) -> Tensor:
    """Rows and columns of ``matrix`` (columns, columns) taken in this order."""
    out = torch.empty_like(matrix)

    def take(strip: slice) -> None:
        rows = order[strip]
        torch.gather(matrix[rows], 1, order.expand(len(rows), -1), out=out[strip])

    each(take, pieces(len(order), _STRIP), matrix.device)
    return out


def transposed(matrix: Tensor) -> Tensor:
    """``matrix`` (rows, columns) with each of its columns in one piece, (columns, rows)."""
    out = torch.empty(matrix.T.shape, dtype=matrix.dtype, device=matrix.device)

    def turn(strip: slice) -> None:
        out[:, strip] = matrix[strip].T

    each(turn, pieces(len(matrix), _STRIP), matrix.device)
    return out


def cholesky_factor(hessian: Tensor, damping: float) -> Tensor:
    """Upper triangular R with RᵀR = H + damping · mean(diag H) · I, (columns, columns); H is damped in place.

    Neither R_ij / R_ii nor the relative damping changes when H is multiplied by a number, so H may be Σ x xᵀ.

    Raises:
        InputError: H is singular even so, or not finite.

    """
    mean, zero = float(hessian.diagonal().mean()), int((hessian.diagonal() == 0).sum())
    hessian.diagonal().add_(damping * mean)
    lower, failed = torch.linalg.cholesky_ex(hessian)
    factor: Tensor = lower.mT  # its rows lie in one piece, as LAPACK's columns do
    if int(failed) or not mean > 0 or not bool(torch.isfinite(factor.diagonal()).all()):
        raise InputError(
            f"the Hessian of {len(hessian)} inputs is singular ({zero} of them are always 0 on the calibration text) "
            f"with damping {damping:g}; raise the option damping (0.01 is usual), or use more calibration tokens"
        )
    return factor


def nearest_plane(
    weights: Tensor, factor: Tensor, scales: Tensor, zero_points: Tensor, *, top: int, keep: Keep | None = None
) -> Tensor:
    """Codes 0 … ``top``, uint8, of ``weights``; everything is (columns, rows), so that a column lies in one piece.

    ``factor`` is R (columns, columns); ``scales`` and ``zero_points`` are those of each weight. The errors outside a
    block of columns are first added to its targets by matrix products, then its columns are rounded one by one; the
    product with all but the previous block is computed while that block is rounded. What ``keep`` does not keep gets
    the code that means 0.
    """
    columns, diagonal = len(weights), factor.diagonal()[:, None]
    errors = torch.empty_like(weights)  # w − q
    codes = torch.empty(weights.shape, dtype=torch.uint8, device=weights.device)

    def far(block: slice) -> tuple[Tensor, Tensor]:
        """R_ij / R_ii of a block, (block, columns), and its targets but for the errors of the block before it."""
        shares, done = factor[block] / diagonal[block], block.stop + _BLOCK
        return shares, torch.addmm(weights[block], shares[:, done:], errors[done:])

    blocks = pieces(columns, _BLOCK)[::-1]
    with ahead(weights.device) as begin:
        waiting = begin(partial(far, blocks[0]))
        for number, block in enumerate(blocks):
            shares, targets = waiting()  # (block, columns), (block, rows)
            if number + 1 < len(blocks):
                waiting = begin(partial(far, blocks[number + 1]))
            near = slice(block.stop, block.stop + _BLOCK)
            targets.addmm_(shares[:, near], errors[near])
            inverse = torch.where(scales[block] == 0, 0, 1 / scales[block])
            found = torch.empty_like(targets)
            chosen, kept = slice(block.stop, block.stop), None
            for i in reversed(range(block.start, block.stop)):
                if keep is not None and i < chosen.start:
                    chosen = slice(max(block.start, i // _CHOICE * _CHOICE), i + 1)
                    own, after = slice(chosen.start - block.start, i + 1 - block.start), slice(i + 1, block.stop)
                    heard = torch.addmm(targets[own], shares[own, after], errors[after])
                    kept = keep(chosen, weights, heard, factor)
                target, code, later = targets[i - block.start], found[i - block.start], slice(i + 1, block.stop)
                target.addmv_(errors[later].T, shares[i - block.start, later])
                torch.addcmul(zero_points[i], target, inverse[i - block.start], out=code).round_().clamp_(0, top)
                if kept is not None:
                    torch.where(kept[i - chosen.start], code, zero_points[i], out=code)
                torch.addcmul(weights[i], code - zero_points[i], scales[i], value=-1, out=errors[i])
            codes[block] = found
    return codes
