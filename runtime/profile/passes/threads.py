"""With how many threads steps or runs are fastest, of one to all fast cores: more is not always faster, and costs."""

from dataclasses import replace
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.cores import usable_cores
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import Under, open_workload, opening, tell, wait_until_cool

_STEPS = 16
_REPEATS = 3


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Go on with 1, 2, 4 … threads and all fast cores, in turn, three times over."""
    wait_until_cool(arguments["cool_celsius"])
    how = opening(arguments)
    most = len(how.cores) if how.cores else usable_cores()
    candidates = sorted({*(2**power for power in range(most.bit_length())), most})
    works = {count: open_workload(replace(how, threads=count))[0] for count in candidates}
    for _ in range(_REPEATS):
        for count, work in works.items():
            work.begin(work.sizes[0])
            with Under(count) as under:
                times = work.steps(min(_STEPS, arguments["decode_tokens"]))
            tell("candidate", {work.repeated.quantity: times}, {"threads": count}, under)
    return {}, {}


PASS = Pass(
    "threads",
    "how many threads are fastest",
    measure,
    ("decode_tokens", "cool_celsius"),
    Rounds.ONE,
)
