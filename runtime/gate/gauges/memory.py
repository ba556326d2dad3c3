"""Memory of a process that runs the bundle: its peak, what stays, and what a load and unload leave behind."""

from edgepress.runtime.gate.alike import profiles
from edgepress.runtime.gate.figures import Figure, Gauge, Option, Request
from edgepress.runtime.profile.memories import leak, memory_by_phase
from edgepress.runtime.profile.records import Profile

_PROMPT_LENGTH = 256  # tokens
_FIGURES = {
    "peak_megabytes": "resident memory at its highest",
    "steady_megabytes": "resident memory while it decodes or runs",
    "anonymous_megabytes": "memory that no file backs, meanwhile: what gets an app killed",
    "leak_megabytes": "what each further load and unload leaves",
}


def _take(requests: list[Request]) -> list[list[Figure]]:
    taken = profiles(requests, ["memory"], rounds=1, prompt_length=_PROMPT_LENGTH)
    return [_figures(profile) for [profile] in taken]


def _figures(profile: Profile) -> list[Figure]:
    phases, left = memory_by_phase(profile), leak(profile)
    *_, worked, _unloaded = phases.values()
    values = {
        "peak_megabytes": max(
            (sizes["peak_rss_bytes"] for sizes in phases.values() if "peak_rss_bytes" in sizes), default=None
        ),
        "steady_megabytes": worked.get("rss_bytes"),
        "anonymous_megabytes": worked.get("anonymous_bytes"),
        "leak_megabytes": None if left is None else left.bytes,
    }
    return [
        Figure(
            name,
            "MB",
            "less",
            () if value is None else (value / 1e6,),
            unknown="" if value is not None else "this system does not tell",
        )
        for name, value in values.items()
    ]


GAUGE = Gauge(
    "memory",
    _FIGURES,
    {
        "prompt_length": Option(int),
        "decode_tokens": Option(int),
        "rows": Option(int),
        "length": Option(int),
        "threads": Option(int),
    },
    _take,
)
