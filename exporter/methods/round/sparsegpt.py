"""SparseGPT: weights become 0 and are rounded in one pass, column by column, the others corrected for both errors.

Frantar & Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot". It is GPTQ with one
more choice (their section 3.4, "joint sparsification and quantization"): when some columns B are reached, Optimal Brain
Surgeon's saliency of each of their weights, w² / [H⁻¹]_cc with H of the columns that are left, says which become 0.
With H = Rᵀ R as in :mod:`.gptq`, [H⁻¹]_cc of the columns up to c is 1 / R_cc². w is the weight corrected for the errors
of the columns after B: w₀ + R_BB⁻¹ D (t − w₀), with its first value w₀, its target t in the nearest plane, and the
diagonal D of R_BB. In an n:m pattern the weights of a group are compared, else those of B, of all rows.

Two things differ from the paper, and tests show why. B has 16 columns, not 128: with fewer columns at a time the
saliency of each is known after more of the others' errors. And not the same share of each B becomes 0: GPTQ's order
puts the columns that matter most together, and zeros in half of those cost more than Wanda's zeros do. So the saliency
of each weight alone, w² / [H⁻¹]_cc with H of all columns (Hassibi & Stork 1993), decides row by row how many of B
become 0; and scales are searched on the weights that this would keep.
Figures: ``benchmarks/sparsity.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods.kinds import LinearMethod
from edgepress.exporter.methods.nearest_plane import (
    Keep,
    cholesky_factor,
    compensate,
    in_order,
    start_codes,
    visiting_order,
)
from edgepress.exporter.methods.options import Options
from edgepress.exporter.methods.sparsity import OPTIONS, Sparsity, largest, read_sparsity


def quantize(weight: Tensor, scheme: Scheme, moments: Moments, options: Options) -> Codes:
    """See :class:`~edgepress.exporter.methods.kinds.LinearMethod`.

    Raises:
        InputError: an option cannot be used, a weight is not finite, or the Hessian is singular.

    """
    sparsity = read_sparsity("sparsegpt", options)
    order = visiting_order(moments.mean_square, act_order=bool(options["act_order"]), group=sparsity.group)
    factor = cholesky_factor(in_order(moments.second, order), float(options["damping"]))
    inverse = torch.empty_like(moments.mean_square)  # [H⁻¹]_cc, (columns,)
    inverse[order] = torch.cholesky_inverse(factor, upper=True).diagonal()
    alone = sparsity.keeps(weight.square() / inverse)
    start = start_codes(weight * alone, scheme, moments)
    return compensate(weight, start, factor, order, keep_salient(sparsity, alone.T[order]))


def keep_salient(sparsity: Sparsity, alone: Tensor) -> Keep:
    """Choose what stays of some columns by their saliency when they are reached.

    ``alone``, bool (columns, rows), is what would stay by the saliency of each weight alone: as many do.
    """

    def keep(some: slice, weights: Tensor, targets: Tensor, factor: Tensor) -> Tensor:
        own = factor[some, some]
        diagonal = own.diagonal()[:, None]
        moved = torch.linalg.solve_triangular(own, diagonal * (targets - weights[some]), upper=True)
        prices = ((weights[some] + moved) * diagonal).square()  # (some, rows)
        if sparsity.group > 1:
            return sparsity.keeps(prices.T).T
        return largest(prices.reshape(1, -1), int(alone[some].sum())).reshape(prices.shape)

    return keep


METHOD = LinearMethod(
    "sparsegpt",
    quantize,
    declared=OPTIONS,
    zeros=lambda options: str(read_sparsity("sparsegpt", options)),
)
