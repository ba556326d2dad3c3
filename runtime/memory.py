"""Memory of the calling process, as the operating system counts it."""

import sys
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024
_ROLLUP = Path("/proc/self/smaps_rollup")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Memory:
    """Bytes at one moment; None where this system does not tell.

    - ``rss``: resident pages, mapped files included
    - ``pss``: the same with each shared page divided among the processes that map it
    - ``anonymous``: pages that no file backs: the system cannot drop and read them again, so this is what gets an app
      killed
    - ``peak_rss``: the largest ``rss`` since the process began
    """

    rss: int | None
    pss: int | None
    anonymous: int | None
    peak_rss: int | None


def read_memory() -> Memory:
    """Measure this process now."""
    rollup = _fields(_ROLLUP)
    status = _fields(_STATUS)
    return Memory(
        rss=rollup.get("Rss", status.get("VmRSS")),
        pss=rollup.get("Pss"),
        anonymous=rollup.get("Anonymous", status.get("RssAnon")),
        peak_rss=status.get("VmHWM", _peak_by_getrusage()),
    )


def _fields(path: Path) -> dict[str, int]:
    """Bytes of each ``Name:  123 kB`` line of a /proc file; empty where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    found = (line.split() for line in lines)
    return {words[0][:-1]: int(words[1]) * _KIB for words in found if len(words) == 3 and words[2] == "kB"}


def _peak_by_getrusage() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * _KIB  # macOS counts bytes, others kilobytes
