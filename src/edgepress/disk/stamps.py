"""Has a file changed since it was hashed? By its stamp, which costs microseconds, and by a sample of its pages."""

import hashlib
import os
import time
import zlib
from collections.abc import Callable
from math import gcd
from pathlib import Path

PAGE = 1 << 16  # bytes that are hashed together
SUM = 4  # bytes of a page's CRC-32: it finds damage; against malice there is the whole file's SHA-256
YOUNG = 50_000_000  # nanoseconds: the clocks of file systems tick some times in that
_GOLDEN = 0.618034  # steps of this share of a circle visit all of it evenly

Stamp = list[int]


def stamp(path: Path) -> Stamp:
    """Size, times of modification and change, inode and device of a file; a link's are those of what it names.

    Whoever writes to a file changes the time of change, which, unlike that of modification, nobody can set.

    Raises:
        OSError: there is no such file.

    """
    return stamp_of(path.stat())


def stamp_of(found: os.stat_result) -> Stamp:
    """The stamp of a file that was looked at."""
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def is_young(stamp: Stamp, moment: int) -> bool:
    """Whether a file changed so short before ``moment`` (ns) that it could change again and keep its stamp."""
    return max(stamp[1:3]) > moment - YOUNG


def hash_pages(path: Path, advance: Callable[[int], None] = lambda _: None) -> tuple[str, bytes]:
    """SHA-256 of a file, as hexadecimal digits, and the CRC-32 of each of its pages, SUM bytes each, in one pass."""
    whole, pages = hashlib.sha256(), bytearray()
    buffer = memoryview(bytearray(PAGE))
    with path.open("rb", buffering=0) as file:
        while count := _fill(file.readinto, buffer):
            whole.update(buffer[:count])
            pages += _sum(buffer[:count])
            advance(count)
    return whole.hexdigest(), bytes(pages)


def find_changed_page(path: Path, pages: bytes, seconds: float) -> int | None:
    """Look at pages of a file in an order that is another at each call, for ``seconds`` or until all were seen.

    ``pages`` is what :func:`hash_pages` gave. Returns where, in bytes, a page begins that is not as it was; None when
    those looked at are.
    """
    count = len(pages) // SUM
    if not count:
        return None
    step = max(1, round(count * _GOLDEN))
    while gcd(step, count) > 1:
        step += 1
    page = int.from_bytes(os.urandom(8), "little") % count
    buffer = memoryview(bytearray(PAGE))
    end = time.perf_counter() + seconds
    with path.open("rb", buffering=0) as file:
        for _ in range(count):
            file.seek(page * PAGE)
            seen = buffer[: _fill(file.readinto, buffer)]
            if _sum(seen) != pages[page * SUM : (page + 1) * SUM]:
                return page * PAGE
            if time.perf_counter() > end:
                return None
            page = (page + step) % count
    return None


def _sum(page: memoryview) -> bytes:
    return zlib.crc32(page).to_bytes(SUM, "little")


def _fill(read: Callable[[memoryview], int | None], buffer: memoryview) -> int:
    """Read until ``buffer`` is full or the file ends; return how many bytes there are."""
    done = 0
    while done < len(buffer) and (count := read(buffer[done:])):
        done += count
    return done
