"""Work in a process of its own under a real limit of memory: whether it survives.

Two limits are known. A control group (Linux, cgroup v2) counts what is resident, files that were mapped too, and the
system reclaims those before it kills: it is what a phone or a container does, and needs a group that we may write to.
``RLIMIT_DATA`` counts what is allocated and private, resident or not, and lets an allocation fail: it needs no right.
Which one it was is told with each result.
"""

import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgepress.errors import InputError

_CGROUPS = Path("/sys/fs/cgroup")
_OUT_OF_MEMORY = 99  # exit code of a process whose allocation failed


@dataclass(frozen=True)
class Trial:
    """What came of one limit: ``by`` is ``cgroup`` or ``RLIMIT_DATA``, ``error`` why it did not survive."""

    limit_bytes: int
    by: str
    survived: bool
    error: str = ""


def run_under(limit_bytes: int, work: Callable[[], None]) -> Trial:
    """Run ``work`` in a forked process that may use ``limit_bytes``.

    Fork before any library has started threads.

    Raises:
        InputError: this system has no such limits.

    """
    if not hasattr(os, "fork"):
        raise InputError("limits of memory need a system with fork, such as Linux or Android")
    group = _group(limit_bytes)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_in_child(limit_bytes, group, work, writing))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    by = "RLIMIT_DATA" if group is None else "cgroup"
    if group is not None:
        with suppress(OSError):
            group.rmdir()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return Trial(limit_bytes, by, False, f"killed by {signal.Signals(number).name}")
    code = os.WEXITSTATUS(status)
    if code not in (0, _OUT_OF_MEMORY):
        raise InputError(f"under a limit of {limit_bytes / 1e6:.0f} MB it failed for another reason: {said}")
    return Trial(limit_bytes, by, code == 0, said)


def _in_child(limit_bytes: int, group: Path | None, work: Callable[[], None], writing: int) -> int:
    """Everything that the child does; its exit code."""
    try:
        if group is None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
        else:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        work()
    except MemoryError:
        return _OUT_OF_MEMORY
    except Exception as error:
        text = str(error) or type(error).__name__
        os.write(writing, text.encode()[:4000])
        # what libraries say when an allocation fails, each in its own words
        words = (
            "bad_alloc",
            "allocat",
            "out of memory",
            "cannot create thread",
            "can't start new thread",
            "Cannot allocate",
        )
        return _OUT_OF_MEMORY if any(word in text for word in words) else 1
    return 0


def _group(limit_bytes: int) -> Path | None:
    """A control group with this limit and no swap; None where we may not make one."""
    try:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        group = _CGROUPS / own.lstrip("/") / f"edgepress-{os.getpid()}"
        group.mkdir()
    except (OSError, StopIteration):
        return None
    try:
        if not (group / "memory.max").exists():  # the kernel makes it where memory may be limited, and nobody else
            raise OSError
        (group / "memory.max").write_text(str(limit_bytes))
        with suppress(OSError):  # a system without swap has no such file
            (group / "memory.swap.max").write_text("0")
    except OSError:
        group.rmdir()
        return None
    return group


def smallest(survives: Callable[[int], bool], known_to: int, within: float = 0.02) -> int | None:
    """Bisect for the smallest limit that ``survives``, to ``within`` a share of it.

    ``known_to`` is where the search begins: doubled up to four times where it does not survive. None where none of
    these does. Survival is taken to be monotonous; a limit that is returned was tried.
    """
    high = known_to
    for _ in range(5):
        if survives(high):
            break
        high *= 2
    else:
        return None
    low = 0
    while high - low > max(within * high, 1 << 20):
        middle = (low + high) // 2
        if survives(middle):
            high = middle
        else:
            low = middle
    return high
