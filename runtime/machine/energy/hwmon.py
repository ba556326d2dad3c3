"""Power sensors of boards, through Linux's hwmon: INA219, INA226, INA3221 and whatever else has a driver.

Units are those of the kernel's documentation (``Documentation/hwmon/sysfs-interface.rst``): ``power*_input`` and
``power*_average`` in µW, ``energy*_input`` in µJ, ``in*_input`` in mV, ``curr*_input`` in mA. The INA3221's driver
(``ina3221.rst``) has no power: bus voltages are ``in1`` to ``in3``, their currents ``curr1`` to ``curr3``. On a Jetson
with NVIDIA's kernels from 5.10 on these are the board's rails, and ``VDD_IN`` is what comes in at the plug.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.readings import Kind, Meter, Rail, Reading, Unavailable, counted

_ROOT = Path("/sys/class")
_CHANNELS_OF_INA3221 = 3


@dataclass(frozen=True)
class _Channel:
    rail: Rail
    read: Callable[[], float]


class HwmonMeter:
    """Every channel with power or energy."""

    def __init__(self, channels: list[_Channel]) -> None:
        self._channels = channels
        self._started = {channel.rail.name: channel.read() for channel in channels if channel.rail.kind == "energy"}
        self.rails = tuple(channel.rail for channel in channels)

    def read(self) -> list[Reading]:
        """Read all channels."""
        return [
            Reading(channel.rail.name, perf_counter(), channel.read() - self._started.get(channel.rail.name, 0.0))
            for channel in self._channels
        ]

    def trouble(self) -> str | None:
        """Nothing spoils these sensors."""
        return None

    def close(self) -> None:
        """Nothing was started."""


def open_hwmon(root: Path = _ROOT) -> Meter | Unavailable:
    """Open every sensor under ``root``/hwmon but those that show a battery again."""
    channels: list[_Channel] = []
    for chip in sorted((root / "hwmon").glob("hwmon*")):
        name = _text(chip / "name") or chip.name
        if not (root / "power_supply" / name).exists():
            channels += _channels(chip, name)
    if not channels:
        return Unavailable(f"{root / 'hwmon'} has no sensor of power or energy")
    try:
        return HwmonMeter(_with_totals(channels))
    except (OSError, ValueError) as error:
        return Unavailable(f"a sensor under {root / 'hwmon'} cannot be read: {error}")


def _channels(chip: Path, name: str) -> list[_Channel]:
    found: list[_Channel] = []
    update = _text(chip / "update_interval")  # ms
    interval = int(update) / 1000 if update and update.isdigit() else None
    for kind, pattern in (("energy", "energy*_input"), ("power", "power*_input"), ("power", "power*_average")):
        for path in sorted(chip.glob(pattern)):
            channel = path.name.partition("_")[0]
            if any(rail.rail.name == _label(chip, name, channel) for rail in found):
                continue  # an average beside a present value
            found.append(_channel(_label(chip, name, channel), name, kind, interval, _scaled(path, 1e-6)))
    if name == "ina3221":
        for index in range(1, _CHANNELS_OF_INA3221 + 1):
            volts, amperes = chip / f"in{index}_input", chip / f"curr{index}_input"
            if volts.exists() and amperes.exists():
                product = _product(_scaled(volts, 1e-3), _scaled(amperes, 1e-3))
                found.append(_channel(_label(chip, name, f"in{index}"), name, "power", interval, product))
    return found


def _channel(label: str, chip: str, kind: str, interval: float | None, read: Callable[[], float]) -> _Channel:
    known: Kind = "energy" if kind == "energy" else "power"
    return _Channel(Rail(label, f"what flows through {chip}'s sensor {label}", known, None, interval), read)


def _with_totals(channels: list[_Channel]) -> list[_Channel]:
    """Mark those that make the total."""
    total = counted([channel.rail.name for channel in channels])
    return [replace(channel, rail=replace(channel.rail, total=channel.rail.name in total)) for channel in channels]


def _label(chip: Path, name: str, channel: str) -> str:
    return _text(chip / f"{channel}_label") or f"{name}/{chip.name}/{channel}"


def _scaled(path: Path, unit: float) -> Callable[[], float]:
    return lambda: int(path.read_text()) * unit


def _product(first: Callable[[], float], second: Callable[[], float]) -> Callable[[], float]:
    return lambda: first() * second()


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


SOURCE = EnergySource("hwmon", "the board's power sensors; what passes several is counted at each", open_hwmon)
