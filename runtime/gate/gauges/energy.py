"""Energy of a token, an answer or an example, above idle, by the first source of the device that can tell."""

from edgepress.runtime.gate.alike import GRAPH, SEQUENCES, TEXT, only_figures_of, profiles
from edgepress.runtime.gate.figures import Figure, Gauge, Option, Request
from edgepress.runtime.profile.records import Profile
from edgepress.runtime.profile.summary import energy, no_energy

_FIGURES = {
    "joules_per_token": ("decode", "a decoded token, above idle power"),
    "joules_per_prompt_token": ("prefill", "a prompt token, above idle power"),
    "joules_per_source": ("encode", "a source read to its first token, above idle power"),
    "joules_per_answer": ("answer", "a prompt or source and what is decoded after it, above idle power"),
    "joules_per_example": ("example", "an example of a run, above idle power"),
}
_KINDS = {
    "joules_per_token": (TEXT, SEQUENCES),
    "joules_per_prompt_token": (TEXT,),
    "joules_per_source": (SEQUENCES,),
    "joules_per_answer": (TEXT, SEQUENCES),
    "joules_per_example": (GRAPH,),
}


def _take(requests: list[Request]) -> list[list[Figure]]:
    kind = only_figures_of(requests, "energy", _KINDS)
    taken = profiles(requests, ["energy"], rounds=requests[0].options["rounds"])
    return [[_figure(name, found) for name in _FIGURES if kind in _KINDS[name]] for found in taken]


def _figure(name: str, rounds: list[Profile]) -> Figure:
    what, _ = _FIGURES[name]
    found = [figure for profile in rounds for figure in energy(profile) if figure.what == what]
    sources = sorted({figure.source for figure in found if figure.refused is None})
    if not sources:
        refused = [figure.refused for figure in found if figure.refused]
        reasons = refused or [f"{source}: {reason}" for source, reason in no_energy(rounds[0]).items()]
        return Figure(name, "J", "less", (), unknown="; ".join(dict.fromkeys(reasons)) or "no source told anything")
    values = [figure.net_joules for figure in found if figure.source == sources[0] and figure.refused is None]
    positive = tuple(value for value in values if value > 0)
    return Figure(name, "J", "less", positive, unknown="" if positive else "nothing above idle power was seen")


GAUGE = Gauge(
    "energy",
    {name: about for name, (_, about) in _FIGURES.items()},
    {
        "prompt_length": Option(int),
        "decode_tokens": Option(int),
        "rows": Option(int),
        "length": Option(int),
        "threads": Option(int),
        "rounds": Option(int, 3),
        "idle_seconds": Option(float, 10.0),
    },
    _take,
)
