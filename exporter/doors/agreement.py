"""A graph held against the model that it was made from, before anything is done with it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import CheckFailed
from edgepress.exporter.doors.traced import Feed, Traced
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
    pairs = []
    for feed in islice(traced.examples(seed), _FEEDS):
        original = traced.compute(feed)
        found = dict(zip(names, session.run(names, dict(feed)), strict=True))
        for name in names:
            if found[name].shape != original[name].shape:
                raise CheckFailed(
                    f"{name} has the shape {found[name].shape} in the graph and {original[name].shape} in the "
                    "original; please report this model"
                )
        pairs.append((found, original))
    worst, share, largest = _farthest(names, pairs)
    if not share <= TOLERANCE:
        raise CheckFailed(
            f"the graph does not compute what the original computes: {worst} is off by {share:.2e} of its largest "
            f"value {largest:.4g}, tolerance {TOLERANCE:.0e}; please report this model"
        )
    return share


def farthest(found: Feed, expected: Feed) -> tuple[str, float]:
    """The output farthest from what is expected, and by what share of its largest value (inf: other shapes)."""
    other = next((name for name in expected if found[name].shape != expected[name].shape), None)
    return _farthest(list(expected), [(found, expected)])[:2] if other is None else (other, np.inf)


def _farthest(names: Sequence[str], pairs: Sequence[tuple[Feed, Feed]]) -> tuple[str, float, float]:
    """The output that differs most, by which share of its largest value in all pairs, and that value."""
    largest = {name: max(_largest(expected[name]) for _, expected in pairs) for name in names}
    apart = {name: max(_apart(found[name], expected[name]) for found, expected in pairs) for name in names}
    shares = {name: apart[name] / max(largest[name], float(np.finfo(np.float32).tiny)) for name in names}
    worst = max(shares, key=lambda name: shares[name])
    return worst, shares[worst], largest[worst]


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
