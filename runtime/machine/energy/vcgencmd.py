"""Raspberry Pi 5: voltages and currents of its power controller, by ``vcgencmd pmic_read_adc``.

``VDD_CORE_A current(7)=0.81262990A`` and ``VDD_CORE_V volt(15)=0.88187950V`` are one rail. The 5 V input has a voltage
and no current, so what USB ports and the controller's own losses take is in no rail: the sum is less than a meter at
the plug shows.
"""

import re
from dataclasses import dataclass
from time import perf_counter

from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.programs import Printed, missing
from edgepress.runtime.machine.metering.readings import Meter, Rail, Reading, Unavailable

_PAUSE = 0.2  # s
_VALUE = re.compile(r"^ *(\w+)_([AV]) +(?:current|volt)\(\d+\)=([0-9.]+)[AV]", re.MULTILINE)


def rails_of(text: str) -> dict[str, float]:
    """Watts of each rail with both a current and a voltage."""
    values = {(name, unit): float(value) for name, unit, value in _VALUE.findall(text)}
    return {
        name: amperes * values[name, "V"]
        for (name, unit), amperes in values.items()
        if unit == "A" and (name, "V") in values
    }


@dataclass
class VcgencmdMeter:
    """All rails of the power controller."""

    program: Printed
    rails: tuple[Rail, ...]

    def read(self) -> list[Reading]:
        """Ask the firmware, at most five times a second."""
        text = self.program.text()
        now = perf_counter()
        return [Reading(name, now, watts) for name, watts in rails_of(text or "").items()]

    def trouble(self) -> str | None:
        """Nothing spoils these sensors."""
        return None

    def close(self) -> None:
        """Nothing was started."""


def open_vcgencmd() -> Meter | Unavailable:
    """Ask the firmware once."""
    if (reason := missing("vcgencmd", "Raspberry Pi OS")) is not None:
        return reason
    program = Printed(("vcgencmd", "pmic_read_adc"), _PAUSE)
    try:
        found = rails_of(program.text() or "")
    except OSError as error:
        return Unavailable(str(error))
    if not found:
        return Unavailable("vcgencmd pmic_read_adc shows no rail: only a Raspberry Pi 5 measures currents")
    return VcgencmdMeter(
        program, tuple(Rail(name, f"the board's rail {name}", "power", None, _PAUSE) for name in found)
    )


SOURCE = EnergySource(
    "vcgencmd", "a Raspberry Pi 5's rails without USB ports and the converters' losses", open_vcgencmd
)
