"""macOS's ``powermetrics``, for root: mean power of the processor's parts over every fifth of a second.

Apple's own processors print ``CPU Power: 823 mW``, ``GPU Power``, ``ANE Power`` and ``Combined Power (CPU + GPU +
ANE)``; Intel's ``Intel energy model derived package power (CPUs+GT+SA): 2.31W``.
"""

import os
import re
import sys

from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.programs import Lines
from edgepress.runtime.machine.metering.readings import Meter, Rail, Reading, Unavailable

_INTERVAL = 0.2  # s
_COMBINED, _PACKAGE = "Combined", "package"
_POWER = re.compile(r"^(\w+) Power(?: \([^)]*\))?: *([0-9.]+) *(m?W)")
_INTEL = re.compile(r"^Intel energy model derived package power[^:]*: *([0-9.]+) *W")
_PARTS = ("CPU", "GPU", "ANE")


def power_of(line: str) -> tuple[str, float] | None:
    """Name and watts of the part that a line is about; None for any other line."""
    if found := _INTEL.match(line):
        return _PACKAGE, float(found[1])
    if (found := _POWER.match(line)) and found[1] in (*_PARTS, _COMBINED):
        return found[1], float(found[2]) / (1000 if found[3] == "mW" else 1)
    return None


class PowermetricsMeter:
    """Readings as lines come."""

    rails = (
        Rail(_COMBINED, "processor, graphics and neural engine together", "power", 1e-3, _INTERVAL),
        Rail(_PACKAGE, "an Intel package", "power", 1e-2, _INTERVAL),
        *(Rail(name, f"the {name} alone, inside Combined", "power", 1e-3, _INTERVAL, total=False) for name in _PARTS),
    )

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def read(self) -> list[Reading]:
        """Return the parts' power in all lines since the last call."""
        parsed = ((seconds, power_of(line)) for seconds, line in self._lines.take())
        return [Reading(found[0], seconds, found[1]) for seconds, found in parsed if found is not None]

    def trouble(self) -> str | None:
        """Nothing spoils these figures."""
        return None

    def close(self) -> None:
        """Stop ``powermetrics``."""
        self._lines.close()


def open_powermetrics() -> Meter | Unavailable:
    """Start ``powermetrics``, which root alone may."""
    if sys.platform != "darwin":
        return Unavailable("powermetrics is part of macOS")
    if os.geteuid() != 0:
        return Unavailable("powermetrics works for root alone; run with sudo")
    try:
        command = ("powermetrics", "--samplers", "cpu_power", "-i", str(round(1000 * _INTERVAL)))
        return PowermetricsMeter(Lines(command))
    except OSError as error:
        return Unavailable(f"powermetrics cannot be started: {error}")


SOURCE = EnergySource(
    "powermetrics", "a Mac's processor, graphics and neural engine, whoever uses them", open_powermetrics
)
