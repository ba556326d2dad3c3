"""Memory of a process that runs the bundle: its peak, what stays, and what a load and unload leave behind."""

from edgepress.runtime.gate.alike import profiles
from edgepress.runtime.gate.figures import Figure, Gauge, Option, Request
from edgepress.runtime.profile.memories import leak, memory_by_phase
from edgepress.runtime.profile.records import Profile

_FIGURES = {
    "peak_megabytes": "resident memory at its highest",
    "steady_megabytes": "resident memory while it decodes",
    "anonymous_megabytes": "memory that no file backs, while it decodes: what gets an app killed",
    "leak_megabytes": "what each further load and unload leaves",
}


def _take(requests: list[Request]) -> list[list[Figure]]:
    return [_figures(profile) for [profile] in profiles(requests, ["memory"], rounds=1)]


def _figures(profile: Profile) -> list[Figure]:
    phases, left = memory_by_phase(profile), leak(profile)
    decoded = next(sizes for phase, sizes in phases.items() if phase.startswith("decoded"))
    values = {
        "peak_megabytes": max(
            (sizes["peak_rss_bytes"] for sizes in phases.values() if "peak_rss_bytes" in sizes), default=None
        ),
        "steady_megabytes": decoded.get("rss_bytes"),
        "anonymous_megabytes": decoded.get("anonymous_bytes"),
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
    {"prompt_length": Option(int, 256), "decode_tokens": Option(int, 64), "threads": Option(int)},
    _take,
)
