"""AWQ: activation-aware weight quantization (Lin et al. 2023).

Rounding errors of a column with large inputs change the output most. When the column is multiplied by s > 1 before
rounding, and its input divided by s, its error shrinks by about s as long as the block's scale stays (section 3.2). For
projections that share their input, s = (√E[x²])^α with the α of a grid that gives the least output error (equation 5):

    Σ tr((W − Ŵ) E[x xᵀ] (W − Ŵ)ᵀ),   Ŵ = Q(W · diag(s)) · diag(s)⁻¹

The paper takes the mean of |x| and measures the error on samples. The second moments, which the error needs anyway,
give both, so that the layer is run on the text once. Rows do not depend on each other: of a projection with more than
``rows``, as many are taken, evenly spaced, to compare the αs. Q is the rounding of :mod:`.rtn` in the plan's scheme,
which already searches each block's scale, the paper's search for clipping included. α = 0, no scaling, is in the grid.

What it brings: ``awq + gptq, …`` beside ``gptq, …`` in the results of ``benchmarks/accuracy.py``. Those models have no
outliers, and gain next to nothing; with outliers the error falls (tests/exporter/methods/test_awq.py makes some).

Scaling the rows of v or up, for the projection after them, does not change the scales that were found for their own
columns: each row has quantization scales of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from edgepress.exporter.methods.folding import Group, foldable_groups, not_foldable
from edgepress.exporter.methods.kinds import Transform, unchanged
from edgepress.exporter.methods.options import Options, whole_number
from edgepress.exporter.methods.round import rtn

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.arrays.moments import Moments
    from edgepress.exporter.arrays.scheme import Scheme
    from edgepress.exporter.methods.tasks import LayerTask

_LEAST = 1e-4  # of the largest channel: what a channel that is nearly always 0 counts as


def _fold(task: LayerTask, options: Options) -> None:
    moments = task.observe(task.full)
    grid, rows = int(options["grid"]), int(options["rows"])
    for group in foldable_groups(task.layer):
        if all(task.scheme(linear.weight) is None for linear in group.linears):
            continue  # kept in float32: nothing is rounded
        group.fold(task.weights, best_scales(task, group, moments[group.linears[0].weight.name], grid, rows))


def best_scales(task: LayerTask, group: Group, moments: Moments, grid: int, rows: int) -> Tensor:
    """Scales of the group's channels, (channels,), by the best α among 0, 1/grid, …, 1."""
    size = group.by_channel(moments.mean_square, "mean").sqrt()  # (channels,)
    return search_scales(size, lambda scales: output_error(task, group, moments, scales, rows), grid)


def search_scales(size: Tensor, error: Callable[[Tensor], float], grid: int) -> Tensor:
    """Scales of channels, (channels,), from their ``size`` by the α with the least ``error``."""
    size = size.clamp_min(float(size.max()) * _LEAST)
    best = torch.ones_like(size)
    least = error(best)
    if not float(size.max()) > 0:
        return best
    for step in range(1, grid + 1):
        scales = size ** (step / grid)
        scales = scales / (scales.max() * scales.min()).sqrt()
        found = error(scales)
        if found < least:
            best, least = scales, found
    return best


def output_error(task: LayerTask, group: Group, moments: Moments, scales: Tensor, rows: int) -> float:
    """Mean squared error of the group's outputs over the text, when rounded with ``scales`` folded in."""
    columns, error = group.by_column(scales), 0.0
    for linear in group.linears:
        scheme = task.scheme(linear.weight)
        if scheme is not None:
            error += matrix_error(task.full(linear.weight), scheme, columns, moments, rows)
    return error


def matrix_error(full: Tensor, scheme: Scheme, columns: Tensor, moments: Moments, rows: int) -> float:
    """Mean squared error of what a matrix gives, when rounded with its ``columns`` scaled, from about so many rows."""
    some = full[:: -(-len(full) // rows)]
    difference = some - rounded(some * columns, scheme) / columns  # (rows, columns)
    share = len(some) / len(full)
    return float(((difference @ moments.second) * difference).sum()) / (moments.count * share)


def rounded(weight: Tensor, scheme: Scheme) -> Tensor:
    """``weight`` rounded to nearest in ``scheme``, dequantized."""
    from edgepress.exporter.arrays.codes import Codes

    stored = rtn.quantize(weight.cpu().numpy(), scheme, None)
    return Codes.unpack(stored, scheme, weight.shape[1]).dequantize().to(weight.device)


METHOD = Transform(
    "awq", unchanged, _fold, not_foldable, declared={"grid": whole_number(20), "rows": whole_number(512)}
)
