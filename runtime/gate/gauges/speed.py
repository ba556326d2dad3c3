"""Speed of models that write tokens: time to first token, of a cold process too, and tokens a second.

Timed in rounds of fresh processes, of the baseline's bundle and this one in turn. A bound in seconds is only decided by
rounds that no other process disturbed; a ratio to a bundle measured in turn is decided by all, because what
disturbs one disturbs the other.
"""

from edgepress.runtime.gate.alike import SEQUENCES, TEXT, only_figures_of, profiles
from edgepress.runtime.gate.figures import Figure, Gauge, Option, Request
from edgepress.runtime.gate.rounds import medians, timed
from edgepress.runtime.profile.records import Profile

_FIGURES = {
    "ttft_ms": "from handing over the prompt or source to its first token",
    "prefill_tokens_per_second": "prompt tokens a second",
    "decode_tokens_per_second": "tokens a second after the prompt or source",
    "cold_ttft_ms": "the first token of a fresh process whose files are not in memory",
}
_KINDS = dict.fromkeys(_FIGURES, (TEXT, SEQUENCES)) | {"prefill_tokens_per_second": (TEXT,)}


def _take(requests: list[Request]) -> list[list[Figure]]:
    only_figures_of(requests, "speed", _KINDS)
    passes = ["speed", *(["cold"] if any("cold_ttft_ms" in request.names for request in requests) else [])]
    taken = profiles(requests, passes, rounds=requests[0].options["rounds"])
    return [_figures(found, alone=len(requests) == 1) for found in taken]


def _figures(rounds: list[Profile], *, alone: bool) -> list[Figure]:
    length = rounds[0].header.settings["prompt_lengths"][0]
    ttft = medians(rounds, "speed", "ttft_seconds", alone=alone)
    steps = medians(rounds, "speed", "step_seconds", alone=alone)
    cold = medians(rounds, "cold", "cold_ttft_seconds", alone=alone)
    return [
        timed("ttft_ms", "ms", "less", [1e3 * seconds for seconds in ttft]),
        timed("prefill_tokens_per_second", "tokens/s", "more", [length / seconds for seconds in ttft]),
        timed("decode_tokens_per_second", "tokens/s", "more", [1 / seconds for seconds in steps]),
        timed("cold_ttft_ms", "ms", "less", [1e3 * seconds for seconds in cold]),
    ]


GAUGE = Gauge(
    "speed",
    _FIGURES,
    {
        "prompt_length": Option(int),
        "decode_tokens": Option(int, 64),
        "threads": Option(int),
        "rounds": Option(int, 8),
    },
    _take,
)
