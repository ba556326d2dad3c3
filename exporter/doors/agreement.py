"""A graph held against the model that it was made from, before anything is done with it."""

from __future__ import annotations

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import CheckFailed
from edgepress.exporter.doors.traced import Traced
from edgepress.sessions import open_on_cpu

TOLERANCE = 1e-4
"""Of the largest value of an output: graphs in float32 are within 1e-5, a wrong one is off by 1e-1."""

_FEEDS = 4  # of different sizes where axes are free


def check_agreement(traced: Traced, *, seed: int = 0) -> float:
    """Run ``traced`` and its original on some of its examples; return the largest difference of an output.

    Differences are shares of the largest value that the original gives for that output, over all of these examples;
    whole numbers and truths must be equal. 0 where there is no original beside the file.

    Raises:
        CheckFailed: they differ by more than :data:`TOLERANCE`.

    """
    if traced.compute is None:
        return 0.0
    session = open_on_cpu(traced.file)
    names = [edge.name for edge in traced.task.outputs]
    largest, apart = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for feed in islice(traced.examples(seed), _FEEDS):
        original = traced.compute(feed)
        for name, found in zip(names, session.run(names, dict(feed)), strict=True):
            expected = original[name]
            if found.shape != expected.shape:
                raise CheckFailed(
                    f"{name} has the shape {found.shape} in the graph and {expected.shape} in the original; please "
                    "report this model"
                )
            largest[name] = max(largest[name], _largest(expected))
            apart[name] = max(apart[name], _apart(found, expected))
    shares = {name: apart[name] / max(largest[name], float(np.finfo(np.float32).tiny)) for name in names}
    worst = max(shares, key=lambda name: shares[name])
    if not shares[worst] <= TOLERANCE:
        raise CheckFailed(
            f"the graph does not compute what the original computes: {worst} is off by {shares[worst]:.2e} of its "
            f"largest value {largest[worst]:.4g}, tolerance {TOLERANCE:.0e}; please report this model"
        )
    return shares[worst]


def _largest(array: NDArray[np.generic]) -> float:
    """The largest value without its sign; masks of minus infinity are none."""
    values = np.abs(np.asarray(array, np.float64))
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def _apart(found: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    """The largest difference; infinite where one is no number, or infinite, and the other is not the same."""
    if not np.issubdtype(expected.dtype, np.floating):
        return 0.0 if np.array_equal(found, expected) else np.inf
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    apart = np.where(same, 0.0, np.abs(a - b))
    return float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0))
