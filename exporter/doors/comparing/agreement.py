"""A graph held against the model that it was made from, before anything is done with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import CheckFailed, InputError
from edgepress.exporter.doors.comparing.queries import Moved, apart, in_order, largest
from edgepress.exporter.doors.traced import TOLERANCE, Feed, Traced
from edgepress.sessions import open_on_cpu

_FEEDS = 4  # of different sizes where axes are free
_MOST = 10 * TOLERANCE  # a graph that is farther from its original is wrong, whatever float64 says
_AS_NEAR = 2.0  # times as far from float64 as the original's own float32 is


@dataclass(frozen=True)
class Agreement:
    """How far a graph is from its original: the share of the largest value of an output, and rows in another order.

    ``own`` is how far the original is from itself in float64, where that had to be asked.
    """

    share: float
    moved: Moved
    own: float | None = None

    def of(self, traced: Traced, *notes: str) -> Traced:
        """``traced`` with what is said of this in a manifest, behind ``notes``, and what its graph may differ by."""
        said = list(notes)
        if self.moved.rows:
            said.append(f"its outputs are compared {self.moved}, as queries that score alike change places")
        if self.own is None:
            return traced.noted(*said)
        said.append(
            f"float32 leaves {self.own:.1e} of the largest output to chance, by the model in float64: the graph is "
            "as near to that as the model is"
        )
        return replace(traced.noted(*said), tolerance=min(max(TOLERANCE, (1 + _AS_NEAR) * self.own), _MOST))


def check_agreement(traced: Traced, *, seed: int = 0) -> Agreement:
    """Run ``traced`` and its original on some of its examples; return how far an output is from its original at most.

    Differences are shares of the largest value that the original gives for that output, over all of these examples;
    whole numbers and truths must be equal. Queries of a detector may come in another order (:mod:`.queries`). A graph
    that is a little farther than :data:`~edgepress.exporter.doors.traced.TOLERANCE` is right where the original in
    float64 is as far from the original: then they differ in digits that float32 does not have. 0 where there is no
    original beside the file.

    Raises:
        CheckFailed: they differ by more than :data:`TOLERANCE`, or onnxruntime does not open the graph.
        InputError: the original gives nothing but NaN and infinities, which say nothing of the graph.

    """
    if traced.compute is None:
        return Agreement(0.0, Moved())
    try:
        session = open_on_cpu(traced.file)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise CheckFailed(
            f"onnxruntime does not open the graph that was made of this {traced.model_type} model, as where sizes "
            f"follow from values ({str(error).strip().splitlines()[0]}); please report this model"
        ) from error
    names = [edge.name for edge in traced.task.outputs]
    pairs, moved = [], Moved()
    for feed in islice(traced.examples(seed), _FEEDS):
        original = traced.compute(feed)
        found = dict(zip(names, session.run(names, dict(feed)), strict=True))
        for name in names:
            if found[name].shape != original[name].shape:
                raise CheckFailed(
                    f"{name} has the shape {found[name].shape} in the graph and {original[name].shape} in the "
                    "original; please report this model"
                )
        ordered, of_feed = in_order(found, original, traced.task.name, TOLERANCE)
        pairs.append((ordered, original))
        moved += of_feed
    _check_finite(names, [original for _, original in pairs])
    worst, share, size = _farthest(names, pairs)
    if TOLERANCE < share <= _MOST and traced.exact is not None:
        own = _own_distance(traced, seed, names, pairs)
        if own is not None:
            return Agreement(share, moved, own)
    if not share <= TOLERANCE:
        raise CheckFailed(
            f"the graph does not compute what the original computes: {worst} is off by {share:.2e} of its largest "
            f"value {size:.4g}, tolerance {TOLERANCE:.0e}; please report this model"
        )
    return Agreement(share, moved)


def _own_distance(traced: Traced, seed: int, names: Sequence[str], pairs: Sequence[tuple[Feed, Feed]]) -> float | None:
    """How far the original is from itself in float64; None where the graph is much farther, or there is no float64."""
    assert traced.exact is not None
    try:
        exact = [traced.exact(feed) for feed in islice(traced.examples(seed), len(pairs))]
    except InputError:  # a module that has float32 in its code
        return None
    own = _farthest(names, [(original, precise) for (_, original), precise in zip(pairs, exact, strict=True)])[1]
    graph = _farthest(names, [(found, precise) for (found, _), precise in zip(pairs, exact, strict=True)])[1]
    return own if graph <= _AS_NEAR * own else None


def _check_finite(names: Sequence[str], originals: Sequence[Feed]) -> None:
    """Raise an InputError where an output of floats is in no place of any example a finite number."""
    for name in names:
        given = [one[name] for one in originals if one[name].size and one[name].dtype.kind == "f"]
        if given and not any(np.isfinite(one).any() for one in given):
            raise InputError(
                f"{name} is NaN or infinite in all {sum(one.size for one in given):,} values that the original gives "
                f"for {len(given)} examples; give example inputs for which it computes, or look at its weights"
            )


def farthest(found: Feed, expected: Feed, task: str, tolerance: float) -> tuple[str, float]:
    """The output farthest from what is expected, and by what share of its largest value (inf: other shapes).

    Queries of a detector that are within ``tolerance`` as a set are compared as one.
    """
    other = next((name for name in expected if found[name].shape != expected[name].shape), None)
    if other is not None:
        return other, np.inf
    return _farthest(list(expected), [(in_order(found, expected, task, tolerance)[0], expected)])[:2]


def _farthest(names: Sequence[str], pairs: Sequence[tuple[Feed, Feed]]) -> tuple[str, float, float]:
    """The output that differs most, by which share of its largest value in all pairs, and that value."""
    sizes = {name: max(largest(expected[name]) for _, expected in pairs) for name in names}
    most = {name: max(_apart(found[name], expected[name]) for found, expected in pairs) for name in names}
    shares = {name: most[name] / max(sizes[name], float(np.finfo(np.float32).tiny)) for name in names}
    worst = max(shares, key=lambda name: shares[name])
    return worst, shares[worst], sizes[worst]


def _apart(found: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    """The largest difference; infinite where whole numbers or truths are not equal."""
    if not np.issubdtype(expected.dtype, np.floating):
        return 0.0 if np.array_equal(found, expected) else np.inf
    return float(apart(found, expected).max(initial=0.0))
