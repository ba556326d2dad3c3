"""Magnitude pruning: the smallest weights of a projection become 0 (Han et al. 2015), then the rest is rounded.

"Learning both Weights and Connections for Efficient Neural Networks". All weights of a projection are compared, as in
the papers that use it as their baseline; in an n:m pattern those of a group. It is a baseline here too: :mod:`.wanda`
and :mod:`.sparsegpt` use the projection's inputs and lose less. Figures: ``benchmarks/sparsity.py``.
"""

from __future__ import annotations

from torch import Tensor

from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods.kinds import LinearMethod
from edgepress.exporter.methods.options import Option, Options
from edgepress.exporter.methods.sparsity import OPTIONS, keep_largest, read_sparsity, round_kept


def quantize(weight: Tensor, scheme: Scheme, moments: Moments, options: Options) -> Codes:
    """See :class:`~edgepress.exporter.methods.kinds.LinearMethod`.

    Raises:
        InputError: an option cannot be used, a weight is not finite, or the Hessian is singular.

    """
    kept = keep_largest(weight, read_sparsity("magnitude", options))
    return round_kept(weight, kept, scheme, moments, options)


METHOD = LinearMethod(
    "magnitude",
    quantize,
    declared={**OPTIONS, "then": Option("gptq")},
    zeros=lambda options: str(read_sparsity("magnitude", options)),
)
