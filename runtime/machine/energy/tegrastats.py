"""Jetson's ``tegrastats``: a line of text a sample, with the power of every rail.

``VDD_IN 3210mW/3195mW``: now, and on average since it began. Older ones print ``POM_5V_IN 2532/2532`` without a unit,
in mW too (NVIDIA Jetson Linux Developer Guide, "tegrastats Utility"). Memory stands in the same form, ``RAM
2448/7772MB``.
"""

import re

from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.programs import Lines, missing
from edgepress.runtime.machine.metering.readings import Meter, Rail, Reading, Unavailable, counted

_INTERVAL = 0.1  # s
_STEP = 0.001  # W
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]+) (\d+)(?:mW(?:/\d+mW)?|/\d+)(?=\s|$)")


def rails_of(line: str) -> dict[str, float]:
    """Watts of each rail in one line of ``tegrastats``; of one named twice, the first."""
    found: dict[str, float] = {}
    for name, milliwatts in _RAIL.findall(line):
        found.setdefault(name, int(milliwatts) / 1000)
    return found


class TegrastatsMeter:
    """Readings as lines come."""

    def __init__(self, lines: Lines, names: list[str]) -> None:
        self._lines = lines
        total = counted(names)
        self.rails = tuple(
            Rail(name, f"the board's rail {name}", "power", _STEP, _INTERVAL, total=name in total) for name in names
        )

    def read(self) -> list[Reading]:
        """Return the rails of all lines since the last call."""
        return [
            Reading(name, seconds, watts)
            for seconds, line in self._lines.take()
            for name, watts in rails_of(line).items()
        ]

    def trouble(self) -> str | None:
        """Nothing spoils these sensors."""
        return None

    def close(self) -> None:
        """Stop ``tegrastats``."""
        self._lines.close()


def open_tegrastats() -> Meter | Unavailable:
    """Start ``tegrastats``."""
    if (reason := missing("tegrastats", "NVIDIA's Jetson Linux")) is not None:
        return reason
    try:
        lines = Lines(("tegrastats", "--interval", str(round(1000 * _INTERVAL))))
    except OSError as error:
        return Unavailable(f"tegrastats cannot be started: {error}")
    first = lines.first()
    names = list(rails_of(first))
    if not names:
        lines.close()
        return Unavailable(f"tegrastats shows no rail's power here: {first.strip() or 'it printed nothing'}")
    return TegrastatsMeter(lines, names)


SOURCE = EnergySource(
    "tegrastats", "a Jetson's rails as its own tool shows them, on average over 0.1 s", open_tegrastats
)
