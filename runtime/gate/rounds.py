"""Figures of rounds that were timed: one median a round, and whether there are enough that nothing disturbed."""

from collections.abc import Sequence
from statistics import median

from edgepress.runtime.gate.figures import Better, Figure
from edgepress.runtime.profile.records import Profile

LEAST_QUIET = 3  # rounds


def medians(rounds: Sequence[Profile], of: str, quantity: str, *, alone: bool) -> list[float]:
    """One median a round of a pass's quantity; of a bundle that is measured alone, of rounds that nothing disturbed."""
    found = []
    for profile in rounds:
        values = [
            value
            for sample in profile.samples(of, good=True)
            if not (alone and "busy" in sample.marks)
            for value in sample.measured.get(quantity, ())
        ]
        if values:
            found.append(median(values))
    return found


def timed(name: str, unit: str, better: Better, values: Sequence[float]) -> Figure:
    """A figure of values by round; unknown where too few rounds were undisturbed."""
    unknown = ""
    if len(values) < LEAST_QUIET:
        unknown = (
            f"{len(values)} rounds were undisturbed by other processes, {LEAST_QUIET} are needed; give a bundle as "
            "--baseline, which is measured in turn, or quiet"
        )
    return Figure(name, unit, better, tuple(values), unknown=unknown)
