"""Speed: time to load, of a turn's first part by its size, and of each step after it, in rounds of fresh processes."""

from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import Under, open_workload, opening, tell, wait_until_cool


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """One round: load, then each size and the steps ``turns`` times, after one turn that is not kept."""
    cooled = wait_until_cool(arguments["cool_celsius"])
    how = opening(arguments)
    with Under(how.cores_used) as under:
        work, seconds = open_workload(how)
    tell("load", {"load_seconds": [seconds]}, {"cooled": cooled, "ran_on": work.ran_on}, under)
    for size in work.sizes:
        for turn in range(-1, arguments["turns"]):
            with Under(how.cores_used) as under:
                times = work.begin(size)
            if turn >= 0:
                tell(work.first.what, {work.first.quantity: times}, {work.first.axis: size}, under)
    for _ in range(arguments["turns"] if work.then is not None else 0):
        with Under(how.cores_used) as under:
            work.begin(size)  # not timed: the caches are the model's again, after files were read
            run = work.run_seconds
            steps = work.steps(arguments["decode_tokens"])
            inside = {} if run is None or work.run_seconds is None else {"run_seconds": [work.run_seconds - run]}
        tell(work.repeated.what, {work.repeated.quantity: steps, **inside}, {work.repeated.axis: size}, under)
    return {}, {}


PASS = Pass(
    "speed",
    "load, time to first token or of a run, time of each further token",
    measure,
    ("decode_tokens", "turns", "cool_celsius"),
    Rounds.UNTIL_PRECISE,
)
