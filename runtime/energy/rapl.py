"""RAPL, the energy counters of Intel and AMD processors, through Linux's powercap.

``/sys/class/powercap/intel-rapl:0`` is package 0 (a socket), ``intel-rapl:0:1`` a part of it, such as its cores or
memory controller: the package's counter has its parts in it, so packages alone are added up. ``energy_uj`` counts
microjoules and starts again at 0 after ``max_energy_range_uj`` (a minute or so under full load, for some).
"""

from dataclasses import dataclass
from pathlib import Path

from edgepress.runtime.energy import EnergySource, Meter, Unavailable

_ROOT = Path("/sys/class/powercap")
_CHANGE_MODE = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"


def energy_between(before: int, after: int, range_: int) -> int:
    """Microjoules counted from ``before`` to ``after`` by a counter that runs from 0 to ``range_`` and starts again.

    ``range_`` is the largest value that it shows, so the step after it is 0. At most one wrap-around is seen.
    """
    return after - before if after >= before else after + range_ + 1 - before


@dataclass
class _Domain:
    counter: Path
    range: int
    last: int
    total: int = 0

    def read(self) -> int:
        now = int(self.counter.read_text())
        self.total += energy_between(self.last, now, self.range)
        self.last = now
        return self.total


class RaplMeter:
    """Adds up the packages' counters."""

    def __init__(self, domains: list[_Domain]) -> None:
        self._domains = domains

    def joules(self) -> float:
        """Energy of all packages since the meter was opened."""
        return sum(domain.read() for domain in self._domains) / 1e6


def open_rapl(root: Path = _ROOT) -> Meter | Unavailable:
    """Open the package counters under ``root``."""
    packages = [path for path in sorted(root.glob("intel-rapl:*")) if _is_package(path)]
    if not packages:
        return Unavailable(f"{root} has no intel-rapl package (not an Intel or AMD machine, or a virtual one)")
    domains = []
    for path in packages:
        counter = path / "energy_uj"
        try:
            range_ = int((path / "max_energy_range_uj").read_text())
            domains.append(_Domain(counter, range_, last=int(counter.read_text())))
        except PermissionError:
            return Unavailable(f"only root may read {counter}; allow it with: {_CHANGE_MODE}")
        except (OSError, ValueError) as error:
            return Unavailable(f"{counter} cannot be read: {error}")
    return RaplMeter(domains)


def _is_package(path: Path) -> bool:
    """Whether this is a whole socket: not a part of one, and not "psys", which has the sockets in it."""
    try:
        return path.name.count(":") == 1 and (path / "name").read_text().startswith("package")
    except OSError:
        return False


SOURCE = EnergySource("rapl", "all processor packages of the machine, whoever uses them", open_rapl)
