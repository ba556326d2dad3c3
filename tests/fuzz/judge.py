"""Runs a command line in a process of its own, and says how it ended: cleanly, or in one of the ways that are faults.

The process is forked from one that has everything imported, so that a command takes milliseconds. It may use so many
seconds of processor time (other programs on the machine do not count) and so many bytes of memory.
"""

import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CPU_SECONDS = 20  # of one command
IDLE_SECONDS = 10  # of one command that waits and computes nothing, as on a pipe that nobody writes
MEMORY = 1 << 30  # bytes that a command may take beyond what the imports did
_POLL = 0.02
_SHOWN = 4000  # characters of an error that a user reads
_BROKEN = 70  # exit code of a process whose command raised


@dataclass(frozen=True)
class Verdict:
    """How a command ended: ``clean``, or what was wrong, and its last words."""

    outcome: str
    code: int
    seconds: float  # of processor time
    peak: int  # bytes above the process that it was forked from
    said: str


def judge_command(command: tuple[str, ...], scratch: Path, cache: Path) -> Verdict:
    """Run a command line of edgepress with a cache of its own; see :func:`judge`."""

    def run() -> int:
        from edgepress.cli import main

        os.environ["EDGEPRESS_CACHE"] = str(cache / "prepared")
        os.environ["XDG_CACHE_HOME"] = str(cache)
        return main(list(command))

    return judge(run, scratch)


def judge(run: Callable[[], int], scratch: Path) -> Verdict:
    """Call ``run`` in a process of its own and classify its end; ``scratch`` is for its output."""
    errors, outputs = scratch / "stderr", scratch / "stdout"
    base = _resident(os.getpid())
    child = os.fork()
    if child == 0:
        _become(run, outputs, errors)
    outcome, peak, moved, used = "", 0, time.monotonic(), 0.0
    descriptor = os.pidfd_open(child)
    while not select.select([descriptor], [], [], _POLL)[0]:
        peak = max(peak, _resident(child) - base)
        if (computed := _computed(child)) > used or _is_ready(child):
            moved, used = time.monotonic(), computed
        if peak > MEMORY:
            outcome = "memory"
        elif time.monotonic() - moved > IDLE_SECONDS:
            outcome = "hang"
        if outcome:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            break
    _, status, usage = os.wait4(child, 0)
    os.close(descriptor)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what the command started
    text = errors.read_bytes().decode("utf-8", "replace") if errors.exists() else ""
    peak = max(peak, usage.ru_maxrss * 1024 - base)
    code = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    outcome = outcome or _outcome(code, text)
    if outcome == "clean" and peak > MEMORY:
        outcome = "memory"
    return Verdict(outcome, code, round(seconds, 3), peak, text[-2000:])


def _outcome(code: int, text: str) -> str:
    if code == -signal.SIGXCPU:
        return "hang"
    if code < 0:
        return "crash"
    if "MemoryError" in text:
        return "memory"
    if code not in (0, 1, 2) or "Traceback (most recent call last)" in text:
        return "traceback"
    if code == 2 and "edgepress: " not in text and "usage: " not in text:
        return "noise"
    return "noise" if len(text) > _SHOWN else "clean"


def _become(run: Callable[[], int], outputs: Path, errors: Path) -> None:
    """The child: call as the command line does, within limits, and end the process."""
    code = _BROKEN
    try:
        os.setsid()
        for path, number in ((outputs, 1), (errors, 2)):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = _virtual(os.getpid()) + 8 * MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        code = run()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else _BROKEN
    except BaseException:  # whatever it is, Rust's panics too: this is what is looked for
        with suppress(BaseException):
            traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _computed(process: int) -> float:
    """Seconds of processor time that a process has used so far."""
    fields = _status(process)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _is_ready(process: int) -> bool:
    """Whether it waits for a processor or the disk, and not for something that may never come."""
    return _status(process)[:1] in (["R"], ["D"])


def _status(process: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has just ended
        return []


def _resident(process: int) -> int:
    return _pages(process, 1)


def _virtual(process: int) -> int:
    return _pages(process, 0)


def _pages(process: int, field: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[field]) * resource.getpagesize()
    except (OSError, IndexError):  # it has just ended
        return 0
