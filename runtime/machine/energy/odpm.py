"""On-device power monitors of Android phones (Pixel 6 and later): energy by rail, counted in the power controllers.

``/sys/bus/iio/devices/iio:device*/energy_value`` of a device whose ``name`` ends in ``odpm`` or is
``microchip,pac1934``::

    t=2534345
    CH0(T=2534345)[S10M_VDD_TPU], 4029437

``T`` are milliseconds for which the channel has counted, the last number µW·s since the phone started (the kernel
driver's ``energy_value_show``, AOSP's ``IioEnergyMeterDataProvider``). Names that begin with L are linear regulators
behind one of the others, S the switching regulators that hang on the battery itself.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.readings import Meter, Rail, Reading, Unavailable

_ROOT = Path("/sys/bus/iio/devices")
_CHANNEL = re.compile(r"^CH\d+(?:\(T=\d+\))?\[([^\]]+)\], *(\d+)", re.MULTILINE)
_STEP = 1e-6  # J
_LINEAR_REGULATOR = "L"


def channels_of(text: str) -> dict[str, float]:
    """Joules of each rail in an ``energy_value`` file."""
    return {name: int(microjoules) / 1e6 for name, microjoules in _CHANNEL.findall(text)}


@dataclass
class OdpmMeter:
    """Every channel of every controller, since it was opened."""

    files: tuple[Path, ...]
    began: dict[str, float]
    rails: tuple[Rail, ...] = field(init=False)
    _restarted: str | None = None

    def __post_init__(self) -> None:
        """Name the rails."""
        self.rails = tuple(
            Rail(name, f"the phone's rail {name}", "energy", _STEP, None, total=not name.startswith(_LINEAR_REGULATOR))
            for name in self.began
        )

    def read(self) -> list[Reading]:
        """Read all controllers."""
        found = []
        for path in self.files:
            channels = channels_of(path.read_text())
            now = perf_counter()
            for name, joules in channels.items():
                if name not in self.began or joules < self.began[name]:
                    self._restarted = name
                found.append(Reading(name, now, joules - self.began.get(name, joules)))
        return found

    def trouble(self) -> str | None:
        """Whether a counter went backwards: somebody chose other rails, which starts all of them again."""
        if self._restarted is None:
            return None
        return f"the counter of {self._restarted} started again: rails were chosen anew while it ran; measure again"

    def close(self) -> None:
        """Nothing was started."""


def open_odpm(root: Path = _ROOT) -> Meter | Unavailable:
    """Open the energy counters under ``root``."""
    files, began = [], {}
    for path in sorted(root.glob("iio:device*/energy_value")):
        try:
            channels = channels_of(path.read_text())
        except PermissionError:
            return Unavailable(
                f"{path} may be read by root and the system alone on this build; adb root opens it on a userdebug build"
            )
        except OSError as error:
            return Unavailable(f"{path} cannot be read: {error}")
        if channels:
            files.append(path)
            began.update(channels)
    if not began:
        return Unavailable(f"{root} has no energy_value (phones before Pixel 6, and most other makers', have none)")
    return OdpmMeter(tuple(files), began)


SOURCE = EnergySource(
    "odpm", "the phone's rails behind its power controllers; the total leaves out those behind another", open_odpm
)
