"""Memory by phase, in a process of its own: what loading, each part of a turn and letting go of a bundle leave.

The bundle is opened and closed several times in one process: what grows from one time to the next has leaked.
"""

import gc
from dataclasses import asdict
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.machine.memory import read_memory, reset_peak, trim_heap
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import open_workload, opening, tell
from edgepress.runtime.profile.system.android import read_memory_account
from edgepress.runtime.profile.system.room import available_bytes, read_control_group
from edgepress.runtime.profile.workloads.workload import Workload

_REPEATS = 5


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Read memory after each phase, ``_REPEATS`` times over."""
    how = opening(arguments)
    for repeat in range(_REPEATS):
        _tell("before load", repeat)
        work, _ = open_workload(how)
        _tell("loaded", repeat)
        for size in work.sizes:
            work.begin(size)
            last = size == work.sizes[-1] and work.then is None
            _tell(work.first.done, repeat, work, services=repeat == 0 and last)
        if work.then is not None:
            work.steps(arguments["decode_tokens"])
            _tell(work.then.done, repeat, work, services=repeat == 0)
        del work
        gc.collect()
        trim_heap()
        _tell("unloaded", repeat)
    return {}, {}


def _tell(phase: str, repeat: int, work: Workload | None = None, *, services: bool = False) -> None:
    """Read and send; ``work`` where it holds something, ``services`` lets Android's own account be read too, slowly."""
    memory = read_memory()
    sizes = {
        "rss_bytes": memory.rss,
        "pss_bytes": memory.pss,
        "anonymous_bytes": memory.anonymous,
        "file_bytes": None if memory.rss is None or memory.anonymous is None else memory.rss - memory.anonymous,
        "peak_rss_bytes": memory.peak_rss,
    }
    group = read_control_group()
    detail = {
        "repeat": repeat,
        "tokens": 0,
        "control_group": None if group is None else asdict(group),
        "available_bytes": available_bytes(),
    }
    if work is not None:
        detail |= work.held()
    if services:
        detail["android"] = read_memory_account()
    # the peak is since the last phase, where the system lets a process forget it, else since the process began
    detail["peak_since_phase"] = reset_peak()
    tell(phase, {name: [float(size)] for name, size in sizes.items() if size is not None}, detail)


PASS = Pass(
    "memory",
    "resident, proportional, anonymous and peak memory by phase, and what is left after unloading",
    measure,
    ("decode_tokens",),
    Rounds.ONE,
)
