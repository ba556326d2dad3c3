"""Instructions on an emulated ARM processor: the same on any machine, so a kernel that is missed is found."""

from edgepress.runtime.gate.alike import GRAPH, TEXT, only_figures_of
from edgepress.runtime.gate.figures import Figure, Gauge, Option, Request
from edgepress.runtime.graph_file.first_use import verify_first
from edgepress.runtime.loading import GRAPH as GRAPH_FILE
from edgepress.runtime.measures.counting import count_bundles
from edgepress.runtime.profile.workloads.graph import made_up_run
from edgepress.targets.emulator import Installation, System, count_model, setup, setup_system

_FIGURES = {
    "per_decoded_token": "of one token after the context, in millions",
    "per_prompt_token": "of a prompt's tokens after the context, each, in millions",
    "per_run": "of one run of a bundle of one graph, in millions",
}
_KINDS = {"per_decoded_token": (TEXT,), "per_prompt_token": (TEXT,), "per_run": (GRAPH,)}


def _take(requests: list[Request]) -> list[list[Figure]]:
    kind = only_figures_of(requests, "instructions", _KINDS)
    requests[0].told(f"instructions: on an emulated {requests[0].options['cpu']}")
    emulator, system = setup(), setup_system()
    count = _run if kind == GRAPH else _tokens
    # a machine for each: what ran in it before changes counts by some tenths of a percent
    return [count(request, emulator, system) for request in requests]


def _tokens(request: Request, emulator: Installation, system: System) -> list[Figure]:
    options = request.options
    [cost] = count_bundles(
        emulator,
        system,
        [request.bundle],
        [options["cpu"]],
        prefill=[options["prompt_length"]],
        contexts=[options["context"]],
    )
    calls = {call.tokens == 1: call.instructions / call.tokens / 1e6 for call in cost.calls}
    return [
        Figure("per_decoded_token", "million", "less", (calls[True],), exact=True),
        Figure("per_prompt_token", "million", "less", (calls[False],), exact=True),
    ]


def _run(request: Request, emulator: Installation, system: System) -> list[Figure]:
    options = request.options
    verify_first(request.bundle)
    feed = made_up_run(request.bundle, rows=options["rows"], length=options["length"])
    [cost] = count_model(emulator, system, request.bundle / GRAPH_FILE, feed, [options["cpu"]])
    return [Figure("per_run", "million", "less", (cost.instructions / 1e6,), exact=True)]


GAUGE = Gauge(
    "instructions",
    _FIGURES,
    {
        "cpu": Option(str, "cortex-a76"),
        "context": Option(int, 64),
        "prompt_length": Option(int, 64),
        "rows": Option(int),
        "length": Option(int),
    },
    _take,
)
