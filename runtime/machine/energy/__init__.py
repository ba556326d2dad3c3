"""Energy counters: one file per source, found because it is there.

Each file ends in ``SOURCE``, a constant of type :class:`EnergySource`. A source opens a meter, or says why it cannot
on this machine; the reasons go into the measurement, where a number would otherwise be missing unexplained. Several may
be open at once, and then see the same energy at several places: they are reported side by side and never added up.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgepress.errors import InputError
from edgepress.modules import modules_in
from edgepress.runtime.machine.metering.readings import Meter, Unavailable


@dataclass(frozen=True)
class EnergySource:
    """A kind of counter. ``measures`` says of what: a package's energy is not one process's."""

    name: str
    measures: str
    open_meter: Callable[[], Meter | Unavailable]


def sources(names: Sequence[str] | None = None) -> list[EnergySource]:
    """Return the sources of these names, or every one in this folder, by name.

    Raises:
        InputError: there is no source of that name.

    """
    known = sorted(module.name for module in modules_in(__path__))
    for name in names or ():
        if name.replace("-", "_") not in known:
            raise InputError(
                f"there is no energy source {name!r}; known are {', '.join(name.replace('_', '-') for name in known)}"
            )
    chosen = known if names is None else [name.replace("-", "_") for name in names]
    return [importlib.import_module(f"{__name__}.{name}").SOURCE for name in chosen]


def open_meters(names: Sequence[str] | None = None) -> tuple[list[tuple[EnergySource, Meter]], dict[str, str]]:
    """Open the sources of these names, or all that this machine has; and say for each other one why it is not open.

    Raises:
        InputError: there is no source of that name.

    """
    opened, reasons = [], {}
    for source in sources(names):
        meter = source.open_meter()
        if isinstance(meter, Unavailable):
            reasons[source.name] = meter.reason
        else:
            opened.append((source, meter))
    return opened, reasons
