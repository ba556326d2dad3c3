"""Sustained work: tokens or runs without a pause for as long as was asked, in windows of a second, with clocks, heat.

A phone that is fast for ten seconds and slow after a minute is slow; when it becomes so, and by how much, is what the
summary reads from these windows.
"""

from time import perf_counter
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import Under, open_workload, opening, tell, wait_until_cool

_WINDOW = 1.0  # s


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Go on until the time is over; a text begins anew, untimed, whenever it is full."""
    cooled = wait_until_cool(arguments["cool_celsius"])
    how = opening(arguments)
    work, _ = open_workload(how)
    work.begin(work.sizes[0])
    counted = "window_runs" if work.then is None else "window_tokens"
    began = perf_counter()
    while perf_counter() - began < arguments["sustained_seconds"]:
        done, busy = 0, 0.0
        with Under(how.cores_used) as under:
            while busy < _WINDOW:
                busy += sum(work.steps(1))
                done += 1
        measured = {"window_seconds": [busy], counted: [float(done)], "at_seconds": [perf_counter() - began]}
        tell("window", measured, {"cooled": cooled}, under)
    return {}, {}


PASS = Pass(
    "sustained",
    "tokens or runs without a pause: throughput, clocks and temperatures over time",
    measure,
    ("sustained_seconds", "cool_celsius"),
    Rounds.ONE,
)
