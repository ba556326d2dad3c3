"""Rails of Jetson boards with NVIDIA's older kernels, whose driver shows the INA3221 as an IIO device.

``/sys/bus/i2c/drivers/ina3221x/<address>/iio:device<n>/rail_name_<i>`` and ``in_power<i>_input`` in mW (NVIDIA Jetson
Linux Developer Guide, "Software-Based Power Consumption Modeling"). Later kernels have hwmon instead.
"""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.readings import Meter, Rail, Reading, Unavailable, counted

_ROOT = Path("/sys/bus/i2c/drivers/ina3221x")
_STEP = 0.001  # W


@dataclass(frozen=True)
class Ina3221xMeter:
    """One power file a rail."""

    rails: tuple[Rail, ...]
    files: tuple[Path, ...]

    def read(self) -> list[Reading]:
        """Read all rails."""
        return [
            Reading(rail.name, perf_counter(), int(path.read_text()) / 1000)
            for rail, path in zip(self.rails, self.files, strict=True)
        ]

    def trouble(self) -> str | None:
        """Nothing spoils these sensors."""
        return None

    def close(self) -> None:
        """Nothing was started."""


def open_ina3221x(root: Path = _ROOT) -> Meter | Unavailable:
    """Open every rail under ``root`` that has a name."""
    named: list[tuple[str, Path]] = []
    try:
        for name in sorted(root.glob("*/iio:device*/rail_name_*")):
            power = name.parent / f"in_power{name.name.removeprefix('rail_name_')}_input"
            if power.exists():
                int(power.read_text())
                named.append((name.read_text().strip(), power))
    except PermissionError as error:
        return Unavailable(f"only root may read {error.filename}; run as root")
    except (OSError, ValueError) as error:
        return Unavailable(f"a rail under {root} cannot be read: {error}")
    if not named:
        return Unavailable(f"there is no {root} (not a Jetson, or one whose kernel has hwmon)")
    names = [name for name, _ in named]
    total = counted(names)
    rails = tuple(Rail(name, f"the board's rail {name}", "power", _STEP, None, total=name in total) for name in names)
    return Ina3221xMeter(rails, tuple(path for _, path in named))


SOURCE = EnergySource(
    "ina3221x", "a Jetson's rails; the total is what comes in at its plug, where that is one", open_ina3221x
)
