"""What a meter says: rails, and readings of them over time.

A *rail* is one thing whose power or energy is known: a processor package, a regulator's output, a battery. A rail of
kind ``energy`` counts joules since its meter was opened, one of kind ``power`` shows watts at a moment. Every rail
says how well it is known (:class:`Rail`), because a figure without its uncertainty is no measurement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["energy", "power"]


@dataclass(frozen=True)
class Rail:
    """One thing that is metered.

    - ``resolution``: the step in which values are shown, in joules (``energy``) or watts (``power``); None where it is
      not known, and then the smallest change seen stands for it
    - ``interval``: seconds between two updates of what is read; a reading may be this old. None where it is not known,
      and then the median time between two changes stands for it
    - ``gain``: bound of the relative error of every value, by the maker's specification; 0 where none is given
    - ``total``: whether the source's total counts it. A rail that lies inside another, or sees the same energy at
      another place, is read and reported, and never added up
    """

    name: str
    measures: str
    kind: Kind
    resolution: float | None
    interval: float | None
    gain: float = 0.0
    total: bool = True


BOARD_INPUTS = ("VDD_IN", "POM_5V_IN")
"""Names of rails of Jetson boards that have all others behind them."""


def counted(names: Sequence[str]) -> frozenset[str]:
    """Which of a board's rails make its total: its input alone, where one is known to be that, else all of them."""
    inputs = [name for name in names if name in BOARD_INPUTS]
    return frozenset(inputs[:1] or names)


@dataclass(frozen=True)
class Reading:
    """``value`` of the rail named ``rail`` (J since the meter was opened, or W) at ``seconds`` of ``perf_counter``."""

    rail: str
    seconds: float
    value: float


class Meter(Protocol):
    """An open source. Read it often enough that no counter wraps around twice between two readings."""

    @property
    def rails(self) -> tuple[Rail, ...]:
        """What it meters; the same from opening to closing."""
        ...

    def read(self) -> list[Reading]:
        """Read every rail now, or what a program has printed since the last call.

        Raises:
            OSError, ValueError: the counter cannot be read at this moment, or shows no number.

        """
        ...

    def trouble(self) -> str | None:
        """Why what was read since opening cannot be used (a charger was plugged in); None where it can."""
        ...

    def close(self) -> None:
        """Stop what was started for it."""
        ...


@dataclass(frozen=True)
class Unavailable:
    """Why a source gives nothing on this machine, in one line."""

    reason: str


@dataclass(frozen=True)
class Trace:
    """Readings of one rail, in order of time."""

    rail: Rail
    seconds: NDArray[np.float64]  # (readings,), increasing
    values: NDArray[np.float64]  # (readings,): J since the first one, or W


def traces(rails: tuple[Rail, ...], readings: list[Reading]) -> list[Trace]:
    """Sort readings by rail and time. Of two at the same moment the later one stands; a rail without any is none."""
    found = []
    for rail in rails:
        points = {reading.seconds: reading.value for reading in readings if reading.rail == rail.name}
        seconds = np.array(sorted(points), np.float64)
        if len(seconds):
            found.append(Trace(rail, seconds, np.array([points[second] for second in seconds], np.float64)))
    return found
