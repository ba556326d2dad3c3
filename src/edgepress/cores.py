"""How many threads work may be spread over."""

import os
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")


def usable_cores() -> int:
    """Cores that this process may keep busy, which a container or ``taskset`` can make fewer than there are.

    Of a quota of processor time the whole cores count: threads that wait for each other stand still when the time of
    one of them is over, so that of a share more would make all slower.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = quota()
    return allowed if share is None else min(allowed, max(1, int(share)))


def quota(root: Path = _ROOT) -> float | None:
    """Cores' worth of time that control groups leave this process; None where none of them limits it.

    Linux, Documentation/admin-guide/cgroup-v2.rst (``cpu.max``, of the group and those above it) and
    Documentation/scheduler/sched-bwc.rst (``cpu.cfs_quota_us`` of version 1).
    """
    shares: list[float] = []
    for folder in _groups(root):
        with suppress(OSError, ValueError):
            limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            if limit != "max":
                shares.append(int(limit) / int(period))
        with suppress(OSError, ValueError):
            limit = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            if int(limit) > 0:
                shares.append(int(limit) / int((folder / "cpu.cfs_period_us").read_text(encoding="ascii")))
    return min(shares, default=None)


def _groups(root: Path) -> list[Path]:
    """Folders of the control groups that this process is in, each with those above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[Path, None] = {}
    for line in lines:
        _number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        place = top / path.strip("/")
        while place != top:
            found[place] = None
            place = place.parent
        found[top] = None
    return list(found)
