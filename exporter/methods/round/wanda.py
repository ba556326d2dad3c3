"""Wanda: the weights that add least to an output become 0, by |w| · ‖x‖₂ of the column (Sun et al. 2023).

"A Simple and Effective Pruning Approach for Large Language Models", eq. 1: the weights of one row are compared, as they
add up to one output; in an n:m pattern those of a group. The paper leaves the other weights as they are, which is
``then = "rtn"``; with ``then = "gptq"`` they are corrected for the zeros while they are rounded.
Figures: ``benchmarks/sparsity.py``.
"""

from __future__ import annotations

from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods.kinds import LinearMethod
from edgepress.exporter.methods.options import Option, Options
from edgepress.exporter.methods.sparsity import OPTIONS, read_sparsity, round_kept


def quantize(weight: Tensor, scheme: Scheme, moments: Moments, options: Options) -> Codes:
    """See :class:`~edgepress.exporter.methods.kinds.LinearMethod`.

    Raises:
        InputError: an option cannot be used, a weight is not finite, all inputs are 0, or the Hessian is singular.

    """
    scores = weight.abs() * input_norms(moments)
    kept = read_sparsity("wanda", options).keeps(scores)
    return round_kept(weight, kept, scheme, moments, options)


def input_norms(moments: Moments) -> Tensor:
    """Root mean square of the input of each column, float32 (columns,): ‖x‖₂ over the root of the number of tokens.

    Raises:
        InputError: all inputs are 0.

    """
    norms = moments.mean_square.sqrt()
    if not bool((norms > 0).any()):
        raise InputError(
            f"all {len(norms)} inputs are 0 on the calibration text, so that no weight matters more than another; use "
            "more or other text"
        )
    return norms


METHOD = LinearMethod(
    "wanda",
    quantize,
    declared={**OPTIONS, "then": Option("gptq")},
    zeros=lambda options: str(read_sparsity("wanda", options)),
)
