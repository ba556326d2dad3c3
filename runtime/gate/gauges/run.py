"""One run of a bundle of one graph: latency on made-up inputs, of a cold process too, and examples a second.

Timed as :mod:`.speed` is: rounds of fresh processes, in turn with the baseline's bundle.
"""

from edgepress.runtime.gate.alike import GRAPH, only_figures_of, profiles
from edgepress.runtime.gate.figures import Figure, Gauge, Option, Request
from edgepress.runtime.gate.rounds import medians, timed
from edgepress.runtime.profile.records import Profile

_FIGURES = {
    "run_milliseconds": "one run",
    "examples_per_second": "examples a second in such runs",
    "load_milliseconds": "opening the bundle, its prepared form at hand",
    "cold_run_milliseconds": "the first run of a fresh process whose files are not in memory, libraries with it",
}


def _take(requests: list[Request]) -> list[list[Figure]]:
    only_figures_of(requests, "run", dict.fromkeys(_FIGURES, (GRAPH,)))
    passes = ["speed", *(["cold"] if any("cold_run_milliseconds" in request.names for request in requests) else [])]
    taken = profiles(requests, passes, rounds=requests[0].options["rounds"])
    return [_figures(found, alone=len(requests) == 1) for found in taken]


def _figures(rounds: list[Profile], *, alone: bool) -> list[Figure]:
    [rows] = rounds[0].header.settings["rows"]
    runs = medians(rounds, "speed", "latency_seconds", alone=alone)
    loads = medians(rounds, "speed", "load_seconds", alone=alone)
    cold = medians(rounds, "cold", "cold_latency_seconds", alone=alone)
    return [
        timed("run_milliseconds", "ms", "less", [1e3 * seconds for seconds in runs]),
        timed("examples_per_second", "examples/s", "more", [rows / seconds for seconds in runs]),
        timed("load_milliseconds", "ms", "less", [1e3 * seconds for seconds in loads]),
        timed("cold_run_milliseconds", "ms", "less", [1e3 * seconds for seconds in cold]),
    ]


GAUGE = Gauge(
    "run",
    _FIGURES,
    {"rows": Option(int, 1), "length": Option(int), "threads": Option(int), "rounds": Option(int, 8)},
    _take,
)
