"""What a sample was taken under: clocks, temperatures, battery, and who else used the processor.

Read twice, before and after each sample, on the device itself. Reading is a dozen small files (0.2 ms where all are
there) and one for each thread of this process (0.02 ms each); what a system hides is None or empty, and then says
nothing. What follows from two readings is arithmetic on data, so that a recorded phone can be judged as one that is
here.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

from edgepress.runtime.profile.system.android import THERMAL_STATUS, THROTTLING

_ROOT = Path("/")
_SLOWER = 0.95  # of the clock that a regime allows: less than this while it is busy is another clock
_OTHERS = 0.1  # cores that other processes may use together before a sample is marked


@dataclass(frozen=True)
class Moment:
    """One reading.

    - ``seconds``: of ``perf_counter``
    - ``mhz``, ``allowed_mhz``: of each core that is on, now and at most (a hot system lowers the second)
    - ``governors``: of the cores, without repeats
    - ``celsius``: by thermal zone
    - ``cooling``: states of devices that cool by slowing the processor down; 0 is "not at work"
    - ``battery_percent``, ``charging``: None where there is no battery
    - ``thermal_status``: Android's, see :mod:`edgepress.runtime.profile.system.android`; None elsewhere. It is slow to
      ask for: before a sample it is what it was after an earlier one, after it at most five seconds old
    - ``thread_cores``: the core that each thread of this process last ran on
    - ``busy_seconds``: processor time of all processes since the system started, ``own_seconds`` of this one
      and of those that it started and that have ended
    """

    seconds: float
    mhz: tuple[float, ...] = ()
    allowed_mhz: tuple[float, ...] = ()
    governors: tuple[str, ...] = ()
    celsius: dict[str, float] = field(default_factory=dict)
    cooling: dict[str, int] = field(default_factory=dict)
    battery_percent: float | None = None
    charging: bool | None = None
    thermal_status: int | None = None
    thread_cores: tuple[int, ...] = ()
    busy_seconds: float | None = None
    own_seconds: float = 0.0


@dataclass(frozen=True)
class Circumstances:
    """What lies between two moments; ``other_cores`` is how many cores other processes kept busy, None if unknown.

    ``marks`` say why a sample does not belong with the others: ``throttled``, ``clock``, ``busy`` or ``charging
    changed``.
    """

    before: Moment
    after: Moment
    other_cores: float | None
    marks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        return content


def read_moment(root: Path = _ROOT) -> Moment:
    """Read this system now. ``root`` is where ``sys`` and ``proc`` are; tests give another."""
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    coolers = sorted((root / "sys/class/thermal").glob("cooling_device*"))
    percent, charging = _battery(root)
    times = os.times()
    return Moment(
        seconds=perf_counter(),
        mhz=_each_core(policies, "scaling_cur_freq"),
        allowed_mhz=_each_core(policies, "scaling_max_freq"),
        governors=tuple(sorted({text for policy in policies if (text := _text(policy / "scaling_governor"))})),
        celsius={
            _text(zone / "type") or zone.name: value / 1000
            for zone in zones
            if (value := _number(zone / "temp")) is not None and -40_000 < value < 200_000  # °C/1000; else it is off
        },
        cooling={
            f"{kind} {cooler.name}": state
            for cooler in coolers
            if "cpu" in (kind := (_text(cooler / "type") or "").lower())
            and (state := _number(cooler / "cur_state")) is not None
        },
        battery_percent=percent,
        charging=charging,
        thermal_status=THERMAL_STATUS.known(),
        thread_cores=_thread_cores(root / "proc/self/task"),
        busy_seconds=_busy(root / "proc/stat"),
        own_seconds=times.user + times.system + times.children_user + times.children_system,
    )


def between(before: Moment, after: Moment, cores_used: int) -> Circumstances:
    """What a sample of ``cores_used`` threads was taken under, and whether it belongs with the others.

    It is marked ``throttled`` where the system allowed less than the processor's clock before it, slowed it down to
    cool, or is an Android that says so (moderately or worse), ``clock`` where cores ran below what was allowed at its
    end, ``busy`` where other processes took more than a tenth of a core.
    """
    others = None
    if before.busy_seconds is not None and after.busy_seconds is not None and after.seconds > before.seconds:
        busy = after.busy_seconds - before.busy_seconds - (after.own_seconds - before.own_seconds)
        others = max(0.0, busy / (after.seconds - before.seconds))
    marks = []
    lowered = any(now < then for now, then in zip(after.allowed_mhz, before.allowed_mhz, strict=False))
    cooling = any(state > 0 for moment in (before, after) for state in moment.cooling.values())
    hot = any((moment.thermal_status or 0) >= THROTTLING for moment in (before, after))
    if lowered or cooling or hot:
        marks.append("throttled")
    fastest = sorted(after.mhz, reverse=True)[:cores_used]
    allowed = sorted(after.allowed_mhz, reverse=True)[:cores_used]
    if any(clock < _SLOWER * most for clock, most in zip(fastest, allowed, strict=False)):
        marks.append("clock")
    tick = 0.02  # s: /proc/stat counts in hundredths
    if (
        others is not None
        and others * (after.seconds - before.seconds) > _OTHERS * (after.seconds - before.seconds) + tick
    ):
        marks.append("busy")
    if before.charging != after.charging:
        marks.append("charging changed")
    return Circumstances(before, after, others, tuple(marks))


def regime(moment: Moment) -> dict[str, Any]:
    """What must be the same for two results to be compared: governors, clocks that are allowed, whether it charges."""
    return {
        "governors": list(moment.governors),
        "allowed_mhz": sorted(moment.allowed_mhz),
        "charging": moment.charging,
    }


def _each_core(policies: list[Path], name: str) -> tuple[float, ...]:
    """MHz of each core, from the policies that govern them."""
    found = []
    for policy in policies:
        khz = _number(policy / name)
        if khz is not None:
            found += [khz / 1000] * len((_text(policy / "affected_cpus") or "0").split())
    return tuple(found)


def _battery(root: Path) -> tuple[float | None, bool | None]:
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        if _text(supply / "type") == "Battery" and _text(supply / "scope") != "Device":
            status = _text(supply / "status")
            return _number(supply / "capacity"), None if status is None else status in ("Charging", "Full")
    return None, None


def _thread_cores(tasks: Path) -> tuple[int, ...]:
    """Field 39 of each thread's ``stat`` (proc(5)); the second, a name in brackets, may have spaces and brackets."""
    try:
        threads = sorted(tasks.iterdir(), key=lambda path: (len(path.name), path.name))
    except OSError:
        return ()
    found = []
    for thread in threads:
        words = (_text(thread / "stat") or "").rpartition(")")[2].split()  # from the third field on
        if len(words) > 36 and words[36].isdecimal():
            found.append(int(words[36]))
    return tuple(found)


def _busy(path: Path) -> float | None:
    """Seconds in which a core did anything: user, nice, system, irq, softirq and steal of the line of all cores."""
    text = _text(path)
    words = text.split("\n", 1)[0].split() if text else []
    if len(words) < 9 or words[0] != "cpu":
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(word) for word in words[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _number(path: Path) -> int | None:
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
