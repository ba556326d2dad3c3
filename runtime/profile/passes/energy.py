"""Energy: idle power, then prompts and answers with every counter read beside them, then idle power again.

Each figure is told as it was counted and less what the device takes when it does nothing, with its uncertainty; a
counter that is too coarse for the run is told with the length that would do.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import sleep
from typing import Any

import numpy as np

from edgepress.calls import Answer, Arrays
from edgepress.errors import InputError
from edgepress.runtime.energy import EnergySource, open_meters
from edgepress.runtime.metering.accounting import Quantity, coarse, energy_between, idle_power, total, without_idle
from edgepress.runtime.metering.readings import Trace
from edgepress.runtime.metering.recorder import Recorded, Recorder
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import decode_steps, opening, prompt_of, tell, wait_until_cool

_LEAST_SECONDS = 5.0  # of decoding, and of prefill: many counters are renewed once a second
_MOST_POINTS = 1000  # of a trace that is kept for its picture

Stretch = tuple[float, float]


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Idle, prefill and decode for at least five seconds each, idle."""
    wait_until_cool(arguments["cool_celsius"])
    opened, unavailable = open_meters(arguments["energy"])
    if not opened:
        for name, reason in unavailable.items():
            tell("unavailable", {}, {"source": name, "reason": reason})
        return {}, {}
    how = opening(arguments)
    model, _ = how.open()
    prompt = prompt_of(model, max(arguments["prompt_lengths"]))
    prefills: list[Stretch] = []
    decodes: list[Stretch] = []
    with Recorder([meter for _, meter in opened]) as recorder:
        idle = [_stretch(recorder, lambda: sleep(arguments["idle_seconds"]))]
        while sum(end - start for start, end in (*prefills, *decodes)) < 2 * _LEAST_SECONDS or len(decodes) < 3:
            model.reset()
            start = recorder.read_now()
            logits = model.prefill(prompt)
            middle = recorder.read_now()
            decode_steps(model, logits, arguments["decode_tokens"])
            prefills.append((start, middle))
            decodes.append((middle, recorder.read_now()))
        idle.append(_stretch(recorder, lambda: sleep(arguments["idle_seconds"])))
    answers = [(prefill[0], decode[1]) for prefill, decode in zip(prefills, decodes, strict=True)]
    counts = {"prefill": len(prompt), "decode": arguments["decode_tokens"], "answer": 1}
    for (source, _), recorded in zip(opened, recorder.recorded(), strict=True):
        seen = _Seen(source, recorded, idle)
        try:
            for what, stretches in (("prefill", prefills), ("decode", decodes), ("answer", answers)):
                seen.tell(what, stretches, counts[what])
            _tell_traces(source, recorded)
        except InputError as error:
            unavailable[source.name] = str(error)
    for name, reason in unavailable.items():
        tell("unavailable", {}, {"source": name, "reason": reason})
    return {}, {}


def _stretch(recorder: Recorder, work: Callable[[], None]) -> Stretch:
    start = recorder.read_now()
    work()
    return start, recorder.read_now()


@dataclass(frozen=True)
class _Seen:
    """What one source saw, and when the device was idle."""

    source: EnergySource
    recorded: Recorded
    idle: list[Stretch]

    def tell(self, what: str, stretches: list[Stretch], count: int) -> None:
        """Joules of one of ``count`` tokens of each stretch (or of an answer): in all, and above idle power.

        Raises:
            InputError: the readings cannot be used, or none of the rails is the whole.

        """
        if self.recorded.trouble is not None:
            raise InputError(self.recorded.trouble)
        busy, tokens = sum(end - start for start, end in stretches), count * len(stretches)
        by_rail = [(trace.rail, _sum(trace, stretches)) for trace in self.recorded.traces]
        idle = [(trace.rail, _idle(trace, self.idle)) for trace in self.recorded.traces]
        above = [
            (rail, without_idle(energy, resting, busy))
            for (rail, energy), (_, resting) in zip(by_rail, idle, strict=True)
        ]
        whole, resting, net = total(by_rail), total(idle), total(above)
        if whole is None or resting is None or net is None:
            raise InputError("none of its rails is the whole; its traces have each of them")
        refused = coarse(whole, busy)
        within = (stretches[0][0], stretches[-1][1])
        measured = {
            "joules": [whole.per(tokens).value],
            "net_joules": [net.per(tokens).value],
            "idle_watts": [resting.value],
            "mean_watts": [whole.value / busy],
            "peak_watts": [sum(_peak(trace, within) for trace in self.recorded.traces if trace.rail.total)],
        }
        detail = {
            "source": self.source.name,
            "of": self.source.measures,
            "tokens": tokens,
            "seconds": busy,
            "joules_error": whole.per(tokens).error,
            "net_joules_error": net.per(tokens).error,
            "idle_watts_error": resting.error,
            "rails": {rail.name: asdict(energy.per(tokens)) for rail, energy in by_rail},
            "refused": None if refused is None else str(refused),
        }
        tell(what, measured, detail, marks=() if refused is None else ("coarse",))


def _sum(trace: Trace, stretches: list[Stretch]) -> Quantity:
    parts = [energy_between(trace, start, end) for start, end in stretches]
    random = float(np.hypot.reduce([part.random for part in parts]))
    return Quantity(sum(part.value for part in parts), random, trace.rail.gain)


def _idle(trace: Trace, stretches: list[Stretch]) -> Quantity:
    """Mean idle power before and after; that the two differ is how far it drifts, also in between."""
    parts = [idle_power(trace, start, end) for start, end in stretches]
    random = np.hypot.reduce([part.random for part in parts]) / len(parts)
    drift = abs(parts[0].value - parts[-1].value) / 2
    return Quantity(sum(part.value for part in parts) / len(parts), float(np.hypot(random, drift)), trace.rail.gain)


def _peak(trace: Trace, within: Stretch) -> float:
    """The most watts between two readings of a counter, or in one of power, while the bundle ran."""
    inside = (trace.seconds >= within[0]) & (trace.seconds <= within[1])
    seconds, values = trace.seconds[inside], trace.values[inside]
    if trace.rail.kind == "power":
        return float(values.max(initial=0.0))
    return float((np.diff(values) / np.diff(seconds)).max(initial=0.0))


def _tell_traces(source: EnergySource, recorded: Recorded) -> None:
    """Power of each rail over time, thinned for a picture."""
    for trace in recorded.traces:
        if trace.rail.kind == "power":
            seconds, watts = trace.seconds, trace.values
        else:
            seconds, watts = trace.seconds[1:], np.diff(trace.values) / np.diff(trace.seconds)
        step = max(1, len(seconds) // _MOST_POINTS)
        measured = {
            "at_seconds": (seconds[::step] - trace.seconds[0]).tolist(),
            "watts": watts[::step].tolist(),
        }
        tell("trace", measured, {"source": source.name, "rail": trace.rail.name, "counted": trace.rail.total})


PASS = Pass(
    "energy",
    "idle power, joules of a prompt token, a decoded token and an answer, by every counter that there is",
    measure,
    ("prompt_lengths", "decode_tokens", "idle_seconds", "cool_celsius", "energy"),
    Rounds.ONE,
)
