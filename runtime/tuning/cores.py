"""The cores that this process may use, and of those the strong ones, where there are strong and weak ones."""

import os
from pathlib import Path

_SYSTEM = Path("/")
_FILES = ("online", "cpu[0-9]*/cpu_capacity", "cpu[0-9]*/cpufreq/cpuinfo_max_freq")


def allowed_cores() -> tuple[int, ...]:
    """The numbers of the cores that this process may run on; none where the system does not say."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def strong_cores(allowed: tuple[int, ...], root: Path = _SYSTEM) -> tuple[int, ...]:
    """Those of ``allowed`` that are of the strongest cluster among them; all where the kernel tells no difference."""
    # here, as cores are looked at when a bundle is prepared and not when it is opened
    from edgepress.runtime.machine.devices.describing.description import Description
    from edgepress.runtime.machine.devices.describing.linux import clusters_of

    folder = root / "sys/devices/system/cpu"
    record = {
        str(path.relative_to(root)): path.read_text(encoding="ascii", errors="replace").strip()
        for pattern in _FILES
        for path in folder.glob(pattern)
    }
    clusters = [cluster for cluster in clusters_of(record) if set(cluster.cores) & set(allowed)]
    fast = Description(device="local", architecture="", clusters=tuple(clusters)).fast_cores() if clusters else ()
    return tuple(core for core in allowed if core in fast) or allowed
