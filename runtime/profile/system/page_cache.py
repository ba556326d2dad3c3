"""Files in the system's page cache: how much of them is there, and dropping them, which needs no right but to read
them."""

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def drop(path: Path) -> None:
    """Ask the system to drop a file from its cache: pages that are mapped or not yet written stay."""
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def resident_share(paths: Sequence[Path]) -> float | None:
    """Share of the files' pages that are in memory, by ``mincore``; None where the system does not say.

    Linux tells it of files that the process could write to.
    """
    if sys.platform != "linux":
        return None
    pages = resident = 0
    libc = ctypes.CDLL(None, use_errno=True)
    for path in paths:
        size = path.stat().st_size
        if not size:
            continue
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped,
        ):
            count = -(-size // mmap.PAGESIZE)
            flags = (ctypes.c_ubyte * count)()
            first = ctypes.c_char.from_buffer(mapped)
            failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), flags)
            del first
            if failed:
                return None
            pages += count
            resident += sum(flag & 1 for flag in bytes(flags))
    return resident / pages if pages else None
