"""Energy: idle power, then turns with every counter read beside them, then idle power again.

Each figure is told as it was counted and less what the device takes when it does nothing, with its uncertainty; a
counter that is too coarse for the run is told with the length that would do. With ``external`` among the sources, load
pulses come first, by which a meter's log is matched to the run afterwards.
"""

from collections.abc import Callable
from dataclasses import replace
from time import sleep
from typing import Any

from edgepress.calls import Answer, Arrays, report
from edgepress.errors import InputError
from edgepress.runtime.machine.energy import open_meters
from edgepress.runtime.machine.metering.pulses import give_pulses
from edgepress.runtime.machine.metering.recorder import Recorder
from edgepress.runtime.profile.energies import PASS_NAME, Part, Run, Stretch, samples_of
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import open_workload, opening, tell, wait_until_cool

_LEAST_SECONDS = 5.0  # of each part of a turn: many counters are renewed once a second
_LEAST_TURNS = 3
_RUNS_SECONDS = 1.0  # of runs in one turn of a model that answers in one
_EXTERNAL = "external"


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Pulses if a meter logs, idle, turns for at least five seconds a part, idle."""
    wait_until_cool(arguments["cool_celsius"])
    opened, unavailable = open_meters(arguments["energy"])
    logged = _EXTERNAL in (arguments["energy"] or ())
    if opened or logged:
        pulses = give_pulses() if logged else ()
        with Recorder([meter for _, meter in opened]) as recorder:
            run = replace(_take(arguments, recorder), pulses=pulses)
        report(run.told())
        for (source, _), recorded in zip(opened, recorder.recorded(), strict=True):
            try:
                for sample in samples_of(source.name, source.measures, recorded, run):
                    report(sample)
            except InputError as error:
                unavailable[source.name] = str(error)
    for name, reason in unavailable.items():
        tell("unavailable", {}, {"source": name, "reason": reason})
    return {}, {}


def _take(arguments: dict[str, Any], recorder: Recorder) -> Run:
    """Idle, turns, idle."""
    work, _ = open_workload(opening(arguments))
    largest, count = work.sizes[-1], arguments["decode_tokens"]
    if work.then is None:
        typical = work.begin(largest)
        count = max(1, round(_RUNS_SECONDS / (sum(typical) / len(typical))))
    firsts: list[Stretch] = []
    steps: list[Stretch] = []
    before = _stretch(recorder, lambda: sleep(arguments["idle_seconds"]))
    least = _LEAST_SECONDS * (1 if work.then is None else 2)
    while sum(end - start for start, end in (*firsts, *steps)) < least or len(steps) < _LEAST_TURNS:
        if work.then is not None:
            firsts.append(_stretch(recorder, lambda: work.begin(largest)))
        steps.append(_stretch(recorder, lambda: work.steps(count)))
    after = _stretch(recorder, lambda: sleep(arguments["idle_seconds"]))
    turns = len(steps)
    unit, each = work.units(work.repeated)
    parts = [Part(unit, turns * count * each, tuple(steps))]
    if work.then is not None:
        answers = tuple((first[0], last[1]) for first, last in zip(firsts, steps, strict=True))
        unit, each = work.units(work.first)
        parts = [Part(unit, turns * each, tuple(firsts)), *parts, Part("answer", turns, answers)]
    return Run(tuple(parts), (before, after))


def _stretch(recorder: Recorder, work: Callable[[], object]) -> Stretch:
    start = recorder.read_now()
    work()
    return start, recorder.read_now()


PASS = Pass(
    PASS_NAME,
    "idle power, joules of a token, an answer or an example, by every counter that there is",
    measure,
    ("decode_tokens", "idle_seconds", "cool_celsius", "energy"),
    Rounds.ONE,
)
