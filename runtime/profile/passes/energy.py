"""Energy: idle power, then prompts and answers with every counter read beside them, then idle power again.

Each figure is told as it was counted and less what the device takes when it does nothing, with its uncertainty; a
counter that is too coarse for the run is told with the length that would do. With ``external`` among the sources, load
pulses come first, by which a meter's log is matched to the run afterwards.
"""

from collections.abc import Callable
from time import sleep
from typing import Any

from edgepress.calls import Answer, Arrays, report
from edgepress.errors import InputError
from edgepress.runtime.energy import open_meters
from edgepress.runtime.metering.pulses import give_pulses
from edgepress.runtime.metering.recorder import Recorder
from edgepress.runtime.profile.energies import PASS_NAME, Run, Stretch, samples_of
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import decode_steps, opening, prompt_of, tell, wait_until_cool

_LEAST_SECONDS = 5.0  # of prefill and decode each: many counters are renewed once a second
_EXTERNAL = "external"


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Pulses if a meter logs, idle, prefill and decode for at least ten seconds, idle."""
    wait_until_cool(arguments["cool_celsius"])
    opened, unavailable = open_meters(arguments["energy"])
    logged = _EXTERNAL in (arguments["energy"] or ())
    if opened or logged:
        pulses = give_pulses() if logged else ()
        with Recorder([meter for _, meter in opened]) as recorder:
            run = _take(arguments, recorder)
        run = Run(run.prompt_tokens, run.decode_tokens, run.prefills, run.decodes, run.idle, pulses)
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
    """Idle, prompts and answers in turn, idle."""
    model, _ = opening(arguments).open()
    prompt = prompt_of(model, max(arguments["prompt_lengths"]))
    prefills: list[Stretch] = []
    decodes: list[Stretch] = []
    before = _stretch(recorder, lambda: sleep(arguments["idle_seconds"]))
    while sum(end - start for start, end in (*prefills, *decodes)) < 2 * _LEAST_SECONDS or len(decodes) < 3:
        model.reset()
        start = recorder.read_now()
        logits = model.prefill(prompt)
        middle = recorder.read_now()
        decode_steps(model, logits, arguments["decode_tokens"])
        prefills.append((start, middle))
        decodes.append((middle, recorder.read_now()))
    after = _stretch(recorder, lambda: sleep(arguments["idle_seconds"]))
    return Run(len(prompt), arguments["decode_tokens"], tuple(prefills), tuple(decodes), (before, after))


def _stretch(recorder: Recorder, work: Callable[[], None]) -> Stretch:
    start = recorder.read_now()
    work()
    return start, recorder.read_now()


PASS = Pass(
    PASS_NAME,
    "idle power, joules of a prompt token, a decoded token and an answer, by every counter that there is",
    measure,
    ("prompt_lengths", "decode_tokens", "idle_seconds", "cool_celsius", "energy"),
    Rounds.ONE,
)
