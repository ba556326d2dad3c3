"""Instructions on an emulated ARM processor: the same on any machine, so a kernel that is missed is found."""

from edgepress.runtime.counting import count_bundles
from edgepress.runtime.gate.figures import Figure, Gauge, Option, Request
from edgepress.targets.emulator import setup, setup_system

_FIGURES = {
    "per_decoded_token": "of one token after the context, in millions",
    "per_prompt_token": "of a prompt's tokens after the context, each, in millions",
}


def _take(requests: list[Request]) -> list[list[Figure]]:
    options = requests[0].options
    requests[0].told(f"instructions: on an emulated {options['cpu']}")
    emulator, system = setup(), setup_system()
    found = []
    for request in requests:  # a machine for each: what ran in it before changes counts by some tenths of a percent
        [cost] = count_bundles(
            emulator,
            system,
            [request.bundle],
            [options["cpu"]],
            prefill=[options["prompt_length"]],
            contexts=[options["context"]],
        )
        calls = {call.tokens == 1: call.instructions / call.tokens / 1e6 for call in cost.calls}
        found.append(
            [
                Figure("per_decoded_token", "million", "less", (calls[True],), exact=True),
                Figure("per_prompt_token", "million", "less", (calls[False],), exact=True),
            ]
        )
    return found


GAUGE = Gauge(
    "instructions",
    _FIGURES,
    {"cpu": Option(str, "cortex-a76"), "context": Option(int, 64), "prompt_length": Option(int, 64)},
    _take,
)
