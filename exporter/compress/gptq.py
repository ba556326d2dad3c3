"""GPTQ: round one column after the other, and let the columns that are left make up for each one's error.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", after Optimal
Brain Surgeon (Hassibi & Stork 1993). Written as Babai's nearest plane, which gives the same codes (Chen et al. 2025,
"The Geometry of LLM Quantization") and needs one Cholesky factor and no inverse: with the Hessian H = Rᵀ R, R upper
triangular, and the columns taken from the last to the first,

    q_i = round( w_i + Σ_{j>i} (w_j − q_j) R_ij / R_ii ).

Scales (and zero points) are searched on the weights before any column is rounded, each column weighed by its E[x²]:
groups may then be visited in any order, as ``act_order`` does (largest E[x²] first).
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.calibration.codes import Codes, spread
from edgepress.exporter.calibration.moments import Moments
from edgepress.exporter.compress import LinearMethod, Method, Options, load_method
from edgepress.exporter.scheme import Scheme

_BLOCK = 64  # columns whose errors are passed on among themselves before all others hear of them


def quantize(weight: Tensor, scheme: Scheme, moments: Moments, options: Options) -> Codes:
    """See :class:`~edgepress.exporter.compress.LinearMethod`.

    Raises:
        InputError: the Hessian is singular, or not finite.

    """
    start = start_codes(weight, scheme, moments)
    columns: int = weight.shape[1]
    hessian, damping = moments.hessian, float(options["damping"])
    importance = hessian.diagonal()
    order = torch.argsort(importance, stable=True) if options["act_order"] else torch.arange(columns).flip(0)
    order = order.to(weight.device)  # the last is rounded first
    factor = cholesky_factor(hessian[order][:, order], damping)
    per_column = (spread(y, scheme, columns).T[order] for y in (start.scales, start.zero_points.float()))
    codes = nearest_plane(weight.T[order], factor, *per_column, top=(1 << scheme.bits) - 1)
    placed = torch.empty_like(start.codes)
    placed[:, order] = codes.T
    return Codes(placed, start.scales, start.zero_points, scheme)


def start_codes(weight: Tensor, scheme: Scheme, moments: Moments) -> Codes:
    """Round to nearest with scales searched under the inputs' E[x²]: where methods that move codes begin."""
    rtn = load_method("rtn")
    if not isinstance(rtn, Method):
        raise TypeError("rtn rounds rows")
    stored = rtn.quantize(weight.cpu().numpy(), scheme, moments.mean_square.cpu().numpy())
    return Codes.unpack(stored, scheme, weight.shape[1]).to(weight.device)


def cholesky_factor(hessian: Tensor, damping: float) -> Tensor:
    """Upper triangular R with RᵀR = H + damping · mean(diag H) · I, (columns, columns).

    Raises:
        InputError: H is singular even so, or not finite.

    """
    mean = float(hessian.diagonal().mean())
    damped = hessian.clone()
    damped.diagonal().add_(damping * mean)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(damped, upper=True)
    if int(failed) or not mean > 0 or not bool(torch.isfinite(factor.diagonal()).all()):
        zero = int((hessian.diagonal() == 0).sum())
        raise InputError(
            f"the Hessian of {len(hessian)} inputs is singular ({zero} of them are always 0 on the calibration text) "
            f"with damping {damping:g}; raise [options.gptq] damping (0.01 is usual), or use more calibration tokens"
        )
    return factor


def nearest_plane(weights: Tensor, factor: Tensor, scales: Tensor, zero_points: Tensor, *, top: int) -> Tensor:
    """Codes 0 … ``top``, uint8, of ``weights``; everything is (columns, rows), so that a column lies in one piece.

    ``factor`` is R (columns, columns); ``scales`` and ``zero_points`` are those of each weight. A block of columns
    first hears of all errors outside it in one matrix product, then its columns follow one by one.
    """
    columns = len(weights)
    shares = factor / factor.diagonal()[:, None]  # R_ij / R_ii
    inverse = torch.where(scales == 0, 0, 1 / scales)
    errors = torch.empty_like(weights)  # w − q
    codes = torch.empty(weights.shape, dtype=torch.uint8, device=weights.device)
    for stop in range(columns, 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        targets = torch.addmm(weights[start:stop], shares[start:stop, stop:], errors[stop:])  # (block, rows)
        for i in range(stop - 1, start - 1, -1):
            target = targets[i - start]
            if i + 1 < stop:
                target = torch.addmv(target, errors[i + 1 : stop].T, shares[i, i + 1 : stop])
            code = torch.addcmul(zero_points[i], target, inverse[i]).round_().clamp_(0, top)
            codes[i] = code
            torch.addcmul(weights[i], code.sub_(zero_points[i]), scales[i], value=-1, out=errors[i])
    return codes


METHOD = LinearMethod("gptq", quantize, options={"damping": 0.01, "act_order": True})
