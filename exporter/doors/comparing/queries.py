"""Detectors' outputs compared as sets: rows that have come in another order are put back, and counted.

A detector of two stages keeps the k best of thousands of proposals as its queries, the best one first. Where two scores
are nearly equal, kernels that add in another order turn them round, and every output of the model has these two rows
the other way round: the same objects. What reads them goes by scores, not by places.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]

TASKS = ("instance-segmentation", "object-detection", "zero-shot-object-detection")
"""The tasks whose outputs may be queries."""


@dataclass(frozen=True)
class Moved:
    """Rows that are where another one is expected: how many of how many, of all images compared."""

    rows: int = 0
    of: int = 0

    def __add__(self, other: "Moved") -> "Moved":
        return Moved(self.rows + other.rows, self.of + other.of)

    def __str__(self) -> str:
        return f"as a set: {self.rows:,} rows of {self.of:,} in another order"


def in_order(found: Arrays, expected: Arrays, task: str, tolerance: float) -> tuple[Arrays, Moved]:
    """``found`` with its rows where ``expected`` has them, if both are the same rows in another order, else as it is.

    Outputs of a detector have the shape (images, queries, …). For each image one permutation of the queries is sought
    that brings all outputs within ``tolerance`` of the expected ones: floats as a share of their largest value, whole
    numbers exactly. Rows that are right where they are stay there. Where there is none, as for a row that is wrong or
    one that came twice, nothing is changed.
    """
    shapes = {array.shape[:2] if array.ndim > 2 else () for array in expected.values()}
    same = all(found[name].shape == array.shape for name, array in expected.items())
    if task not in TASKS or not same or len(shapes) != 1 or shapes == {()}:
        return found, Moved()
    images, queries = shapes.pop()
    order = np.tile(np.arange(queries), (images, 1))  # (images, queries): where in found each expected row is
    for image in range(images):
        near = _Near(found, expected, image, tolerance)
        astray = np.array([row for row in range(queries) if not near([row], row)[0]], int)
        ways = np.array([near(astray, row) for row in astray]).reshape(len(astray), len(astray))
        matched = _matched(ways)
        if matched is None:
            return found, Moved()
        order[image, astray] = astray[matched]
    moved = Moved(int((order != np.arange(queries)).sum()), images * queries)
    return {name: found[name][np.arange(images)[:, None], order] for name in expected}, moved


class _Near:
    """Which rows found for an image are within ``tolerance`` of an expected one, in every output."""

    def __init__(self, found: Arrays, expected: Arrays, image: int, tolerance: float) -> None:
        self.outputs = [
            (found[name][image], array[image], tolerance * largest(array) if array.dtype.kind == "f" else 0.0)
            for name, array in expected.items()
        ]

    def __call__(self, rows: NDArray[np.integer] | list[int], row: int) -> NDArray[np.bool_]:
        right = np.ones(len(rows), np.bool_)
        for found, expected, most in self.outputs:
            differences = apart(found[rows], np.broadcast_to(expected[row], found[rows].shape))
            right &= differences.reshape(len(rows), -1).max(1, initial=0.0) <= most
        return right


def _matched(near: NDArray[np.bool_]) -> NDArray[np.integer] | None:
    """For each row of ``near`` (rows, rows) a column of its own where it is true; None where not all have one."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if not len(near):
        return np.empty(0, int)
    found = maximum_bipartite_matching(csr_array(near), perm_type="column")
    return None if (found < 0).any() else found


def apart(found: NDArray[np.generic], expected: NDArray[np.generic]) -> NDArray[np.float64]:
    """Each difference; infinite where what is found is no number, or one is infinite and the other is not the same.

    Where NaN is expected, as of a text that is padding alone, anything is right.
    """
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    same = (a == b) | np.isnan(b)
    with np.errstate(invalid="ignore"):  # ∞ − ∞, which is no difference
        differences = np.where(same, 0.0, np.abs(a - b))
    return np.where(np.isnan(differences), np.inf, differences)


def largest(array: NDArray[np.generic]) -> float:
    """The largest value without its sign; masks of minus infinity are none."""
    values = np.abs(np.asarray(array, np.float64))
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0
