"""Android's battery service, where the gauge's own files are hidden from the shell: ``dumpsys battery``.

It prints ``Charge counter: 2448973`` in µAh, ``voltage: 4248`` in mV, ``status: 3`` (2 charging, 3 discharging, 4 not
charging, 5 full: ``BatteryManager``'s constants) and what is plugged in. Many gauges step the counter by a thousandth
of their capacity or more, once in ten seconds or a minute: only runs of minutes say anything.
"""

import re
from dataclasses import dataclass
from time import perf_counter

from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.programs import Printed, missing
from edgepress.runtime.machine.metering.readings import Meter, Rail, Reading, Unavailable

_PAUSE = 1.0  # s
_DISCHARGING = 3
_CHARGE = "battery/charge"
_FIELD = re.compile(r"^ *([A-Za-z ]+): *(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class BatteryState:
    """What matters of ``dumpsys battery``: coulombs left, volts, and whether the battery alone feeds the phone."""

    coulombs: float
    volts: float
    discharging: bool
    plugged: tuple[str, ...]


def battery_state(text: str) -> BatteryState:
    """Parse what ``dumpsys battery`` prints.

    Raises:
        ValueError: a field that is needed is missing, or no number.

    """
    fields = {name.strip().lower(): value for name, value in _FIELD.findall(text)}
    for name in ("charge counter", "voltage", "status"):
        if name not in fields:
            raise ValueError(f"dumpsys battery shows no {name!r} on this phone")
    plugged = tuple(
        name.removesuffix(" powered") for name, value in fields.items() if name.endswith(" powered") and value == "true"
    )
    return BatteryState(
        coulombs=int(fields["charge counter"]) * 3600e-6,
        volts=int(fields["voltage"]) / 1000,
        discharging=int(fields["status"]) == _DISCHARGING,
        plugged=plugged,
    )


@dataclass
class AndroidBatteryMeter:
    """Energy by the charge that left the battery."""

    program: Printed
    last: BatteryState
    rails: tuple[Rail, ...] = (
        Rail(_CHARGE, "everything that hangs on the battery, as charge that left it × voltage", "energy", None, None),
    )
    _joules: float = 0.0
    _trouble: str | None = None

    def read(self) -> list[Reading]:
        """Ask the battery service, at most once a second."""
        text = self.program.text()
        if text is None:
            return []
        state = battery_state(text)
        if reason := _not_alone(state):
            self._trouble = reason
        self._joules += (self.last.coulombs - state.coulombs) * (self.last.volts + state.volts) / 2
        self.last = state
        return [Reading(_CHARGE, perf_counter(), self._joules)]

    def trouble(self) -> str | None:
        """Whether a charger was there."""
        return self._trouble

    def close(self) -> None:
        """Nothing was started."""


def _not_alone(state: BatteryState) -> str | None:
    if state.plugged or not state.discharging:
        by = f"powered by {', '.join(state.plugged)}" if state.plugged else "not discharging"
        return f"the phone is {by}: its battery's gauge does not see that power; unplug it and use adb over the network"
    return None


def open_android_battery() -> Meter | Unavailable:
    """Ask the battery service once."""
    if (reason := missing("dumpsys", "Android")) is not None:
        return reason
    program = Printed(("dumpsys", "battery"), _PAUSE)
    try:
        state = battery_state(program.text() or "")
    except (OSError, ValueError) as error:
        return Unavailable(str(error))
    if plugged := _not_alone(state):
        return Unavailable(plugged)
    return AndroidBatteryMeter(program, state)


SOURCE = EnergySource(
    "android-battery", "everything that hangs on the phone's battery: display and radio too", open_android_battery
)
