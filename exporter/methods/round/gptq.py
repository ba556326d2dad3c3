"""GPTQ: round one column after the other, and correct the columns that are left for each one's error.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", after Optimal
Brain Surgeon (Hassibi & Stork 1993). Written as Babai's nearest plane, which gives the same codes (Chen et al. 2025,
"The Geometry of LLM Quantization") and needs one Cholesky factor and no inverse: with the Hessian H = Rᵀ R, R upper
triangular, and the columns taken from the last to the first,

    q_i = round( w_i + Σ_{j>i} (w_j − q_j) R_ij / R_ii ).

Scales (and zero points) are searched on the weights before any column is rounded, each column weighed by its E[x²]:
groups may then be visited in any order, as ``act_order`` does (largest E[x²] first).
"""

from __future__ import annotations

from torch import Tensor

from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods.kinds import LinearMethod
from edgepress.exporter.methods.nearest_plane import cholesky_factor, compensate, in_order, start_codes, visiting_order
from edgepress.exporter.methods.options import Option, Options


def quantize(weight: Tensor, scheme: Scheme, moments: Moments, options: Options) -> Codes:
    """See :class:`~edgepress.exporter.methods.kinds.LinearMethod`.

    Raises:
        InputError: the Hessian is singular, or not finite.

    """
    start = start_codes(weight, scheme, moments)
    order = visiting_order(moments.mean_square, act_order=bool(options["act_order"]))
    factor = cholesky_factor(in_order(moments.second, order), float(options["damping"]))
    return compensate(weight, start, factor, order)


METHOD = LinearMethod(
    "gptq", quantize, declared={"damping": Option(0.01, least=0, most=100), "act_order": Option(True)}
)
