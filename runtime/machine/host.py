"""What a measurement was taken on: processor, operating system, versions."""

import os
import platform
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgepress import __version__
from edgepress.processor import cpu_info, cpu_name

_FREQUENCY = "cpufreq"


@dataclass(frozen=True)
class Host:
    """The machine; None where it does not tell.

    ``cores_usable`` is what this process may run on, ``cores`` what the system has. ``governor`` and ``max_mhz`` are
    the first core's frequency policy: a phone's governor changes results more than most optimizations do.
    """

    cpu: str
    architecture: str
    features: tuple[str, ...]
    cores: int | None
    cores_usable: int | None
    memory_bytes: int | None
    governor: str | None
    max_mhz: float | None
    os: str
    kernel: str


def read_host(root: Path = Path("/")) -> Host:
    """Describe this machine. ``root`` is where ``proc`` and ``sys`` are; tests give another."""
    info = cpu_info(root)
    return Host(
        cpu=cpu_name(info),
        architecture=platform.machine(),
        features=tuple(sorted((info.get("flags") or info.get("Features") or "").split())),
        cores=os.cpu_count(),
        cores_usable=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        memory_bytes=_memory(root),
        governor=_read(root / "sys/devices/system/cpu/cpu0" / _FREQUENCY / "scaling_governor"),
        max_mhz=_max_mhz(root),
        os=_os_name(),
        kernel=f"{platform.system()} {platform.release()}",
    )


def versions(*packages: str) -> dict[str, str]:
    """Our version, Python's, and those of ``packages``."""
    found = {"edgepress": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # onnxruntime under another distribution name, as its vendors' builds have
            found[package] = str(import_module(package).__version__)
    return found


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _memory(root: Path) -> int | None:
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _max_mhz(root: Path) -> float | None:
    khz = _read(root / "sys/devices/system/cpu/cpu0" / _FREQUENCY / "cpuinfo_max_freq")
    return int(khz) / 1000 if khz and khz.isdigit() else None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError, AttributeError):
        return platform.platform()
