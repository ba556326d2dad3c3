"""Speed: time to first token, of a cold process too, and tokens a second.

Timed in rounds of fresh processes, of the baseline's bundle and this one in turn. A bound in seconds is only decided by
samples that no other process disturbed; a ratio to a bundle measured in turn is decided by all, because what
disturbs one disturbs the other.
"""

from statistics import median

from edgepress.runtime.gate.alike import profiles
from edgepress.runtime.gate.figures import Figure, Gauge, Option, Request
from edgepress.runtime.profile.records import Profile, Sample

_FIGURES = {
    "ttft_ms": "from handing over the prompt to its first token",
    "prefill_tokens_per_second": "prompt tokens a second",
    "decode_tokens_per_second": "tokens a second after the prompt",
    "cold_ttft_ms": "the first token of a fresh process whose files are not in memory",
}
_LEAST_QUIET = 3  # rounds


def _take(requests: list[Request]) -> list[list[Figure]]:
    passes = ["speed", *(["cold"] if any("cold_ttft_ms" in request.names for request in requests) else [])]
    taken = profiles(requests, passes, rounds=requests[0].options["rounds"])
    return [_figures(found, alone=len(requests) == 1) for found in taken]


def _figures(rounds: list[Profile], *, alone: bool) -> list[Figure]:
    length = rounds[0].header.settings["prompt_lengths"][0]
    ttft = _observed(rounds, "speed", "prefill", "ttft_seconds", alone=alone)
    steps = _observed(rounds, "speed", "decode", "step_seconds", alone=alone)
    cold = _observed(rounds, "cold", "cold", "cold_ttft_seconds", alone=alone)
    found = {
        "ttft_ms": ("ms", "less", [1e3 * seconds for seconds in ttft]),
        "prefill_tokens_per_second": ("tokens/s", "more", [length / seconds for seconds in ttft]),
        "decode_tokens_per_second": ("tokens/s", "more", [1 / seconds for seconds in steps]),
        "cold_ttft_ms": ("ms", "less", [1e3 * seconds for seconds in cold]),
    }
    return [
        Figure(name, unit, "less" if better == "less" else "more", tuple(values), unknown=_unknown(len(values)))
        for name, (unit, better, values) in found.items()
    ]


def _observed(rounds: list[Profile], of: str, what: str, quantity: str, *, alone: bool) -> list[float]:
    """One median a round; of a bundle that is measured alone, of rounds that nothing disturbed."""
    found = []
    for profile in rounds:
        samples = [sample for sample in profile.samples(of, what, good=True) if not (alone and _disturbed(sample))]
        if samples:
            found.append(median(value for sample in samples for value in sample.measured[quantity]))
    return found


def _disturbed(sample: Sample) -> bool:
    return "busy" in sample.marks


def _unknown(count: int) -> str:
    if count >= _LEAST_QUIET:
        return ""
    return (
        f"{count} rounds were undisturbed by other processes, {_LEAST_QUIET} are needed; give a bundle as --baseline, "
        "which is measured in turn, or quiet"
    )


GAUGE = Gauge(
    "speed",
    _FIGURES,
    {
        "prompt_length": Option(int, 64),
        "decode_tokens": Option(int, 64),
        "threads": Option(int),
        "rounds": Option(int, 8),
    },
    _take,
)
