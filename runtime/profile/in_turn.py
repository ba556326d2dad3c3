"""Two bundles measured in turn in one process, a fraction of a second each: for machines whose speed wanders.

Where a neighbour, a clock or a shared cache makes a machine now slower and now faster, by more than two bundles differ
and for seconds on end, profiles that were taken one after the other say which of them was lucky. Stretches that follow
each other at once meet the same machine: the ratio of each pair is one observation, and they alternate in which comes
first. Both are open at the same time, so memory and what happens at a start are for profiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from edgepress.errors import InputError
from edgepress.runtime.config import read_config
from edgepress.runtime.profile.default_opening import default_opening
from edgepress.runtime.profile.rounds import open_workload, opening
from edgepress.runtime.profile.statistics import Interval, interval_of
from edgepress.runtime.profile.workloads import find_kind
from edgepress.runtime.profile.workloads.workload import Workload

_STRETCH = 0.1  # seconds
_LEAST = 8  # pairs
_TOKENS = 256  # after a prompt


@dataclass(frozen=True)
class InTurn:
    """What came of it: ``quantity`` is what was timed; each of ``pairs`` has the seconds of the base and the other."""

    quantity: str
    pairs: tuple[tuple[float, float], ...]

    @property
    def ratio(self) -> Interval:
        """The other's time by the base's, with its 95 % interval by Student's t on the pairs' logarithms."""
        return interval_of([other / base for base, other in self.pairs])

    def __str__(self) -> str:
        """One line for a terminal."""
        found, base, other = self.ratio, *(median(side) for side in zip(*self.pairs, strict=True))
        star = "*" if not found.low <= 1 <= found.high else ""
        return (
            f"{self.quantity}  {1e3 * base:.3f} → {1e3 * other:.3f} ms  × {found.value:.3f}{star} "
            f"(95 %: {found.low:.3f} to {found.high:.3f}; {len(self.pairs)} pairs in turn)"
        )


def compare_in_turn(base: Path, other: Path, *, seconds: float = 30.0, threads: int | None = None) -> InTurn:
    """Measure what two bundles of one kind do most: tokens after a prompt, or runs.

    Args:
        base: a bundle.
        other: the bundle that is held against it.
        seconds: how long the pairs are taken, opening aside.
        threads: of both; None is as each would take by itself.

    Raises:
        InputError: they are not of one kind, or cannot be opened.

    """
    if not 0 < seconds < 86_400:
        raise InputError(f"seconds is {seconds}; give more than 0, and less than a day")
    kinds = [find_kind(bundle).name for bundle in (base, other)]
    if kinds[0] != kinds[1]:
        raise InputError(f"{base} is of the kind {kinds[0]!r} and {other} of the kind {kinds[1]!r}; compare one kind")
    works = [open_workload(opening({"opening": long_opening(one, threads)}))[0] for one in (base, other)]
    return InTurn(works[0].repeated.quantity, tuple(pairs_of(works, seconds)))


def long_opening(bundle: Path, threads: int | None) -> dict[str, Any]:
    """How a bundle is opened here: a text has room for many tokens after its prompt, as prompts are not timed."""
    if find_kind(bundle).name != "language model":
        return default_opening(bundle, threads)
    return default_opening(bundle, threads, min(_TOKENS, read_config(bundle).context_length // 2))


def pairs_of(
    works: Sequence[Workload], seconds: float, clock: Callable[[], float] = perf_counter
) -> list[tuple[float, float]]:
    """Medians of stretches of both, pair by pair, until ``seconds`` are over and there are eight."""
    for work in works:
        work.begin(work.sizes[0])
        work.steps(2)  # the first ones are others
    count = max(1, round(_STRETCH / max(median(works[0].steps(3)), 1e-9)))
    found: list[tuple[float, float]] = []
    end = clock() + seconds
    while clock() < end or len(found) < _LEAST:
        order = (0, 1) if len(found) % 2 else (1, 0)
        took = {side: median(works[side].steps(count)) for side in order}
        found.append((took[0], took[1]))
    return found
