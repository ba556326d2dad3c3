"""Energy counters: one file per source, found because it is there.

Each file ends in ``SOURCE``, a constant of type :class:`EnergySource`. A source opens a meter, or says why it cannot
on this machine; the reasons go into the measurement, where a number would otherwise be missing unexplained.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgepress.modules import modules_in


class Meter(Protocol):
    """Counts energy since it was made. Read it often enough that the counter does not wrap around twice between."""

    def joules(self) -> float:
        """Energy used since the meter was made, in joules."""
        ...


@dataclass(frozen=True)
class Unavailable:
    """Why a source gives nothing on this machine, in one line."""

    reason: str


@dataclass(frozen=True)
class EnergySource:
    """A kind of counter. ``measures`` says of what: a package's energy is not one process's."""

    name: str
    measures: str
    open_meter: Callable[[], Meter | Unavailable]


def sources() -> list[EnergySource]:
    """Every source in this folder, by name."""
    modules = sorted(module.name for module in modules_in(__path__))
    return [importlib.import_module(f"{__name__}.{name}").SOURCE for name in modules]


def open_meter() -> tuple[EnergySource, Meter] | Unavailable:
    """Open the first source that this machine has, or say why each one is not available."""
    reasons = []
    for source in sources():
        meter = source.open_meter()
        if not isinstance(meter, Unavailable):
            return source, meter
        reasons.append(f"{source.name}: {meter.reason}")
    return Unavailable("; ".join(reasons))
