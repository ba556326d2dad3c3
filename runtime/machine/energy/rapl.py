"""RAPL, the energy counters of Intel and AMD processors, through Linux's powercap.

``/sys/class/powercap/intel-rapl:0`` is package 0 (a socket), ``intel-rapl:0:1`` a part of it. ``energy_uj`` counts
microjoules and starts again at 0 after ``max_energy_range_uj`` (a minute or so under full load, for some). Cores and
graphics lie inside the package's counter; memory does not (Intel's Software Developer's Manual, volume 3B, 16.10.1),
and ``psys``, where there is one, has all of these in it. AMD's processors have the same names.
"""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.readings import Meter, Rail, Reading, Unavailable

_ROOT = Path("/sys/class/powercap")
_CHANGE_MODE = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
_STEP = 2.0**-14  # J, the unit of most processors (MSR_RAPL_POWER_UNIT); servers' memory counters have 2^-16
_UPDATES = 0.001  # s, by the same manual
_MEASURES = {
    "core": "all cores of a package, inside it",
    "uncore": "graphics of a package, inside it",
    "dram": "memory of a package, beside it",
    "psys": "the whole platform, packages and memory in it",
}


def energy_between(before: int, after: int, range_: int) -> int:
    """Microjoules counted from ``before`` to ``after`` by a counter that runs from 0 to ``range_`` and starts again.

    ``range_`` is the largest value that it shows, so the step after it is 0. At most one wrap-around is seen.
    """
    return after - before if after >= before else after + range_ + 1 - before


@dataclass
class _Domain:
    rail: Rail
    counter: Path
    range: int
    last: int
    total: int = 0

    def read(self) -> Reading:
        now = int(self.counter.read_text())
        self.total += energy_between(self.last, now, self.range)
        self.last = now
        return Reading(self.rail.name, perf_counter(), self.total / 1e6)


class RaplMeter:
    """Every domain that there is, each since it was opened."""

    def __init__(self, domains: list[_Domain]) -> None:
        self._domains = domains
        self.rails = tuple(domain.rail for domain in domains)

    def read(self) -> list[Reading]:
        """Read all counters."""
        return [domain.read() for domain in self._domains]

    def trouble(self) -> str | None:
        """Nothing spoils these counters."""
        return None

    def close(self) -> None:
        """Nothing was started."""


def open_rapl(root: Path = _ROOT) -> Meter | Unavailable:
    """Open the counters under ``root``: packages, and their parts."""
    domains = []
    for path in sorted(root.glob("intel-rapl:*")):  # not intel-rapl-mmio, which shows the same package again
        counter = path / "energy_uj"
        try:
            rail = _rail(path)
            range_ = int((path / "max_energy_range_uj").read_text())
            domains.append(_Domain(rail, counter, range_, last=int(counter.read_text())))
        except PermissionError:
            return Unavailable(f"only root may read {counter}; allow it with: {_CHANGE_MODE}")
        except (OSError, ValueError) as error:
            return Unavailable(f"{counter} cannot be read: {error}")
    if not any(domain.rail.total for domain in domains):
        return Unavailable(f"{root} has no intel-rapl package (not an Intel or AMD machine, or a virtual one)")
    return RaplMeter(domains)


def _rail(path: Path) -> Rail:
    name = (path / "name").read_text().strip()
    part = path.name.count(":") > 1
    measures = _MEASURES.get(name, "a processor package with all its cores and caches")
    full_name = f"package-{path.name.split(':')[1]}/{name}" if part else name
    return Rail(full_name, measures, "energy", _STEP, _UPDATES, total=name.startswith("package") or name == "dram")


SOURCE = EnergySource("rapl", "all processor packages of the machine and their memory, whoever uses them", open_rapl)
