"""One run of a bundle that is no language model: time at batch 1 on made-up inputs, and the memory that it adds."""

from edgepress.runtime.bench_graph import bench_graph
from edgepress.runtime.gate.figures import Figure, Gauge, Option, Request

_FIGURES = {
    "run_milliseconds": "one run of one example",
    "load_milliseconds": "opening the bundle, its prepared form at hand",
    "megabytes": "resident memory after the runs, above what there was before the bundle was opened",
}


def _take(requests: list[Request]) -> list[list[Figure]]:
    options = requests[0].options
    taken: list[list[list[float]]] = [[[], [], []] for _ in requests]
    for _ in range(options["rounds"]):  # bundles in turn, so that what disturbs one disturbs the other
        for request, (runs, loads, memories) in zip(requests, taken, strict=True):
            request.told(f"run: {request.bundle}")
            found = bench_graph(request.bundle, repetitions=options["repetitions"], threads=options["threads"])
            runs.append(1e3 * sorted(found.run_seconds)[len(found.run_seconds) // 2])
            loads.append(1e3 * found.load_seconds)
            if found.after_runs.rss is not None and found.before_load.rss is not None:
                memories.append(max(0.0, (found.after_runs.rss - found.before_load.rss) / 1e6))
    return [
        [
            Figure("run_milliseconds", "ms", "less", tuple(runs)),
            Figure("load_milliseconds", "ms", "less", tuple(loads)),
            Figure(
                "megabytes", "MB", "less", tuple(memories[:1]), unknown="" if memories else "the system does not say"
            ),
        ]
        for runs, loads, memories in taken
    ]


GAUGE = Gauge(
    "run", _FIGURES, {"threads": Option(int), "rounds": Option(int, 5), "repetitions": Option(int, 20)}, _take
)
