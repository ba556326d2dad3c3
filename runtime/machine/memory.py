"""Memory of the calling process, as the operating system counts it; and giving back what is held without need."""

import ctypes
import mmap
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024
_ROLLUP = Path("/proc/self/smaps_rollup")
_STATUS = Path("/proc/self/status")
_MADV_DONTNEED = 4  # Linux


@dataclass(frozen=True)
class Memory:
    """Bytes at one moment; None where this system does not say.

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


def reset_peak() -> bool:
    """Let ``peak_rss`` begin anew; whether the system allows it (Linux does, of one's own process)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


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


def drop_mapped(data: Path, regions: tuple[tuple[int, int], ...]) -> None:
    """Let go of the resident pages of ``regions`` of a mapped file; they are clean, and read again when needed."""
    if sys.platform != "linux" or not regions:
        return
    libc = ctypes.CDLL(None)
    name = str(data.resolve())
    with suppress(OSError), Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as file:
        for line in file:  # 7f1c…-7f1d… rw-p 0000a000 fd:01 1234   /path
            if not line.rstrip("\n").endswith(name):
                continue
            span, _, offset_text, *_ = line.split(maxsplit=5)
            begin, end = (int(part, 16) for part in span.split("-"))
            first = int(offset_text, 16)
            for offset, size in regions:
                low = -(-max(first, offset) // mmap.PAGESIZE) * mmap.PAGESIZE
                high = min(first + end - begin, offset + size) // mmap.PAGESIZE * mmap.PAGESIZE
                if low < high:
                    address = ctypes.c_void_p(begin + low - first)
                    libc.madvise(address, ctypes.c_size_t(high - low), _MADV_DONTNEED)


def trim_heap() -> None:
    """Hand free memory of the allocator back to the system, where the C library can (glibc)."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
