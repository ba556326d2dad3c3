"""A battery's own gauge, of phones and laptops: Linux's ``/sys/class/power_supply``.

Units of the kernel's documentation (``Documentation/ABI/testing/sysfs-class-power``): µV, µA, µW, µAh, µWh. Vendors of
phones differ in ``current_now``: some give mA, some count discharging as positive. The unit is told by the power that
follows: a device that runs takes 0.07 to 60 W from its battery, which one of the two units gives and not the other. The
sign does not matter while the battery only discharges, and nothing else is accepted: a charger's power passes the gauge
by.
"""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.readings import Meter, Rail, Reading, Unavailable

_ROOT = Path("/sys/class/power_supply")
_DISCHARGING = "Discharging"
_LEAST, _MOST = 0.07, 60.0  # W
_MICRO = 1e-6
_SECONDS_AN_HOUR = 3600.0
CURRENT, CHARGE = "battery/current", "battery/charge"


def amperes_per_unit(current: int, volts: float) -> float | None:
    """What one step of ``current_now`` is, in amperes: 1e-6 or 1e-3, whichever gives a power that a device can use.

    None where neither does. Both cannot: they differ by a thousand, the bounds by less.
    """
    for unit in (1e-6, 1e-3):
        if _LEAST <= abs(current) * unit * volts <= _MOST:
            return unit
    return None


@dataclass
class BatteryMeter:
    """Power from current and voltage, and energy from the charge that is left, of one battery."""

    folder: Path
    rails: tuple[Rail, ...]
    unit: float | None  # A a step of current_now; None where power_now is read, or nothing
    counter: tuple[str, float] | None  # file of what is left, and J (or C) a step of it
    _left: int | None = None
    _joules: float = 0.0
    _trouble: str | None = None

    def read(self) -> list[Reading]:
        """Read the gauge, and note when a charger comes."""
        status = (self.folder / "status").read_text().strip()
        if status != _DISCHARGING:
            self._trouble = (
                f"the battery was {status.lower()} during the run: a charger's power passes its gauge by; unplug it"
            )
        found = []
        volts = _number(self.folder / "voltage_now") * _MICRO
        names = {rail.name for rail in self.rails}
        if CURRENT in names:
            found.append(Reading(CURRENT, perf_counter(), self._watts(volts)))
        if self.counter is not None and CHARGE in names:
            found.append(Reading(CHARGE, perf_counter(), self._taken(volts)))
        return found

    def trouble(self) -> str | None:
        """Whether the battery did anything but discharge."""
        return self._trouble

    def close(self) -> None:
        """Nothing was started."""

    def _watts(self, volts: float) -> float:
        if self.unit is None:
            return abs(_number(self.folder / "power_now")) * _MICRO
        return abs(_number(self.folder / "current_now")) * self.unit * volts

    def _taken(self, volts: float) -> float:
        assert self.counter is not None
        name, unit = self.counter
        left = _number(self.folder / name)
        if self._left is not None:
            self._joules += (self._left - left) * unit * (1.0 if name == "energy_now" else volts)
        self._left = left
        return self._joules


def open_battery(root: Path = _ROOT) -> Meter | Unavailable:
    """Open the system's battery under ``root``; one of a mouse or pen is none."""
    batteries = [path for path in sorted(root.glob("*")) if _is_system_battery(path)]
    if not batteries:
        return Unavailable(f"{root} has no battery that we may read (there is none, or the system hides it)")
    if len(batteries) > 1:
        names = ", ".join(path.name for path in batteries)
        return Unavailable(f"there are {len(batteries)} batteries, {names}, which share the load as they please")
    folder = batteries[0]
    try:
        status = (folder / "status").read_text().strip()
        if status != _DISCHARGING:
            return Unavailable(
                f"{folder.name} is {status.lower()}, not discharging: a charger's power passes its gauge by; unplug it "
                "(adb works over the network too)"
            )
        return _open(folder)
    except (OSError, ValueError) as error:
        return Unavailable(f"{folder} cannot be read: {error}")


def _open(folder: Path) -> Meter | Unavailable:
    rails, unit = [], None
    volts = _number(folder / "voltage_now") * _MICRO
    if (folder / "power_now").exists():
        rails.append(Rail(CURRENT, "everything that hangs on the battery, as power", "power", None, None))
    elif (folder / "current_now").exists():
        current = _number(folder / "current_now")
        unit = amperes_per_unit(current, volts)
        if unit is None:
            return Unavailable(
                f"{folder / 'current_now'} shows {current} at {volts:.2f} V, which is no power that a device "
                "uses, in µA or in mA"
            )
        rails.append(Rail(CURRENT, "everything that hangs on the battery, as current × voltage", "power", None, None))
    counter = _counter(folder)
    if counter is not None:  # the same energy at the same place: read beside, never added
        measures = "everything that hangs on the battery, as charge that left it × voltage"
        rails.append(Rail(CHARGE, measures, "energy", None, None, total=not rails))
    if not rails:
        return Unavailable(f"{folder} shows neither current, power nor charge")
    return BatteryMeter(folder, tuple(rails), unit, counter)


def _counter(folder: Path) -> tuple[str, float] | None:
    """The file that counts what is left, and joules a step (times the voltage where it counts charge)."""
    for name in ("energy_now", "charge_counter", "charge_now"):  # µWh, µAh, µAh
        if (folder / name).exists():
            return name, _MICRO * _SECONDS_AN_HOUR
    return None


def _is_system_battery(folder: Path) -> bool:
    try:
        if (folder / "type").read_text().strip() != "Battery":
            return False
    except OSError:
        return False
    scope = folder / "scope"
    return not (scope.exists() and scope.read_text().strip() == "Device")


def _number(path: Path) -> int:
    return int(path.read_text())


SOURCE = EnergySource("battery", "everything that hangs on the battery: display and radio too", open_battery)
