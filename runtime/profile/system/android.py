"""What Android's own services say: its account of a process's memory, and whether it slows the phone down.

Formats: ``dumpsys meminfo PID`` (ActivityThread.java, dumpMemInfoTable: an "App Summary" in kB, its rows proportional
memory, then resident) and ``dumpsys thermalservice`` (ThermalManagerService.java). Each call is a message to the
system's server and takes a tenth of a second or more, so none is made while anything is timed.
"""

import os
import re
import shutil
from collections.abc import Callable
from time import monotonic

from edgepress.runtime.machine.metering.programs import output_of

_PROGRAM = "dumpsys"
_FRESH = 5.0  # s that an answer is as good as another: asking pauses what is measured for a minute
THROTTLING = 2
"""The least status that is marked: PowerManager.THERMAL_STATUS_MODERATE of Android's SDK ("moderate throttling where UX
is not largely impacted"). 0 is none, 1 light, whose throttling is said not to be felt."""

_ROWS = {
    "Native Heap": "native_heap_bytes",
    "Code": "code_bytes",
    "Stack": "stack_bytes",
    "Graphics": "graphics_bytes",
    "Private Other": "private_other_bytes",
    "System": "system_bytes",
    "TOTAL PSS": "total_pss_bytes",
    "TOTAL": "total_pss_bytes",  # what older versions call it
    "TOTAL RSS": "total_rss_bytes",
    "TOTAL SWAP PSS": "total_swap_pss_bytes",
}
_ENTRY = re.compile(r"([A-Z][A-Za-z]*(?: [A-Za-z]+)*): +(\d{1,12})(?!\S)", re.ASCII)


def memory_account(text: str) -> dict[str, int]:
    """Bytes by kind of the "App Summary" that ``dumpsys meminfo PID`` prints; empty where it has none."""
    _, begun, summary = text.partition("App Summary")
    if not begun:
        return {}
    found: dict[str, int] = {}
    for name, kilobytes in _ENTRY.findall(summary.partition(" Objects")[0]):
        if name in _ROWS:
            found.setdefault(_ROWS[name], int(kilobytes) * 1024)
    return found


def read_memory_account() -> dict[str, int]:
    """Android's account of this process; empty where this is no Android, or it does not answer."""
    return memory_account(_ask("meminfo", str(os.getpid())))


def thermal_status(text: str) -> int | None:
    """The status in what ``dumpsys thermalservice`` prints: 0 (none) to 6 (shutdown); None where it has none."""
    found = re.search(r"^\s*Thermal Status: ([0-6])\s*$", text, re.MULTILINE | re.ASCII)
    return int(found[1]) if found else None


class ThermalStatus:
    """The phone's status: what it was when it was last asked for, or now."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._asked: float | None = None
        self._status: int | None = None

    def known(self) -> int | None:
        """The last answer; the first one where there is none yet."""
        return self._ask_anew() if self._asked is None else self._status

    def now(self) -> int | None:
        """An answer of no more than :data:`_FRESH` seconds ago."""
        stale = self._asked is None or self._clock() - self._asked > _FRESH
        return self._ask_anew() if stale else self._status

    def _ask_anew(self) -> int | None:
        self._status, self._asked = thermal_status(_ask("thermalservice")), self._clock()
        return self._status


THERMAL_STATUS = ThermalStatus()
"""This process's."""


def _ask(*arguments: str) -> str:
    if shutil.which(_PROGRAM) is None:
        return ""
    try:
        return output_of((_PROGRAM, *arguments))
    except OSError:
        return ""
