"""Logits that are NaN or infinite end a run, a measurement or a check with an error that says where."""

import math

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError

REMEDY = (
    "weights that are NaN or too large, or float16 that overflowed: run `edgepress verify`, try the checkpoint "
    "in float32 (--recipe fp32), and if that is sound, export without float16 activations"
)


def check_logits(logits: NDArray[np.floating], where: str) -> None:
    """Raise InputError unless each row's largest logit is finite.

    One pass for the maximum, which is NaN when one logit is, and infinite when one is +∞ or all are −∞. Single entries
    of −∞, which mask tokens of the vocabulary, are allowed.

    Args:
        logits: (vocab,) or (rows, vocab).
        where: the position, the token and what was done, for the message.

    Raises:
        InputError: with ``where``, what was found and what to do.

    """
    largest = logits.max(-1)
    if not np.isfinite(largest).all():
        row = int(np.argmin(np.isfinite(np.atleast_1d(largest))))
        values = np.atleast_2d(logits)[row]
        at = f", row {row} of {len(logits)}" if logits.ndim > 1 else ""
        raise InputError(
            f"{where}{at}: of {values.size} logits {int(np.isnan(values).sum())} are NaN and "
            f"{int(np.isinf(values).sum())} are infinite, so no token can be chosen or scored; likely causes are "
            f"{REMEDY}"
        )


def check_figure(figure: float, what: str, remedy: str = REMEDY) -> float:
    """Return ``figure`` if it is finite; InputError, with ``what`` it is and the ``remedy``, when it is not."""
    if not math.isfinite(figure):
        raise InputError(f"{what} is {figure}, which is not finite; likely causes are {remedy}")
    return figure
