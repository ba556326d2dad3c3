"""Energy of a run by one source: figures made of what was read beside it, on the device or afterwards from a log.

A run is idle time, then turns one after the other, then idle time; where an external meter logs, load pulses come
before.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgepress.errors import InputError
from edgepress.runtime.machine.energy.external import aligned, read_power_log
from edgepress.runtime.machine.metering.accounting import (
    Quantity,
    coarse,
    energy_between,
    idle_power,
    total,
    without_idle,
)
from edgepress.runtime.machine.metering.pulses import Pulse
from edgepress.runtime.machine.metering.readings import Trace
from edgepress.runtime.machine.metering.recorder import Recorded
from edgepress.runtime.profile.records import Profile, Round, Sample, Writer

PASS_NAME = "energy"
_MOST_POINTS = 1000  # of a trace that is kept for its picture

Stretch = tuple[float, float]
Told = dict[str, Any]  # a sample as a pass tells it


@dataclass(frozen=True)
class Part:
    """When one part of the turns ran, ``stretches``, and how many ``units`` of it (tokens, runs) were done in all."""

    what: str
    units: int
    stretches: tuple[Stretch, ...]


@dataclass(frozen=True)
class Run:
    """When what ran, in seconds of the device's ``perf_counter``; ``idle`` before and after."""

    parts: tuple[Part, ...]
    idle: tuple[Stretch, ...]
    pulses: tuple[Pulse, ...] = ()

    def told(self) -> Told:
        """It as a sample, from which a log that comes later is understood."""
        return _told("run", {}, {"run": msgspec.to_builtins(self)})


def samples_of(name: str, of: str, recorded: Recorded, run: Run) -> list[Told]:
    """Figures of one unit of each part by the source ``name``, and its traces.

    Raises:
        InputError: the readings cannot be used, or none of the rails is the whole.

    """
    if recorded.trouble is not None:
        raise InputError(recorded.trouble)
    return [
        *(_figure(part, (name, of), recorded, run.idle) for part in run.parts),
        *(_trace(name, trace) for trace in recorded.traces),
    ]


def _figure(part: Part, source: tuple[str, str], recorded: Recorded, idle_time: tuple[Stretch, ...]) -> Told:
    """Joules of one unit of a part: in all, and above idle power."""
    stretches = part.stretches
    busy = sum(end - start for start, end in stretches)
    by_rail = [(trace.rail, _sum(trace, stretches)) for trace in recorded.traces]
    idle = [(trace.rail, _idle(trace, idle_time)) for trace in recorded.traces]
    above = [
        (rail, without_idle(energy, resting, busy)) for (rail, energy), (_, resting) in zip(by_rail, idle, strict=True)
    ]
    whole, resting, net = total(by_rail), total(idle), total(above)
    if whole is None or resting is None or net is None:
        raise InputError("none of its rails is the whole; its traces have each of them")
    refused = coarse(whole, busy)
    within = (stretches[0][0], stretches[-1][1])
    measured = {
        "joules": [whole.per(part.units).value],
        "net_joules": [net.per(part.units).value],
        "idle_watts": [resting.value],
        "mean_watts": [whole.value / busy],
        "peak_watts": [sum(_peak(trace, within) for trace in recorded.traces if trace.rail.total)],
    }
    detail = {
        "source": source[0],
        "of": source[1],
        "units": part.units,
        "seconds": busy,
        "joules_error": whole.per(part.units).error,
        "net_joules_error": net.per(part.units).error,
        "idle_watts_error": resting.error,
        "rails": {rail.name: asdict(energy.per(part.units)) for rail, energy in by_rail},
        "refused": None if refused is None else str(refused),
    }
    return _told(part.what, measured, detail, ["coarse"] if refused is not None else [])


def _told(what: str, measured: dict[str, list[float]], detail: dict[str, Any], marks: list[str] | None = None) -> Told:
    return {"what": what, "measured": measured, "detail": detail, "circumstances": None, "marks": marks or []}


def _sum(trace: Trace, stretches: tuple[Stretch, ...]) -> Quantity:
    parts = [energy_between(trace, start, end) for start, end in stretches]
    random = float(np.hypot.reduce([part.random for part in parts]))
    return Quantity(sum(part.value for part in parts), random, trace.rail.gain)


def _idle(trace: Trace, stretches: tuple[Stretch, ...]) -> Quantity:
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


def _trace(name: str, trace: Trace) -> Told:
    """Power of a rail over time, thinned for a picture."""
    if trace.rail.kind == "power":
        seconds, watts = trace.seconds, trace.values
    else:
        seconds, watts = trace.seconds[1:], np.diff(trace.values) / np.diff(trace.seconds)
    step = max(1, len(seconds) // _MOST_POINTS)
    measured = {"at_seconds": (seconds[::step] - trace.seconds[0]).tolist(), "watts": watts[::step].tolist()}
    return _told("trace", measured, {"source": name, "rail": trace.rail.name, "counted": trace.rail.total})


def add_log(writer: Writer, log: Path) -> None:
    """Add the figures of an external meter's log to a profile whose energy was measured with ``external`` among its
    sources.

    Raises:
        InputError: the profile has no load pulses, or the log cannot be read or matched to them.

    """
    run = _run_of(writer.profile)
    trace = aligned(read_power_log(log), run.pulses)
    told = samples_of("external", "what the external meter sees", Recorded((trace,), None), run)
    number = writer.profile.rounds(PASS_NAME)
    writer.add(Round(of=PASS_NAME, round=number, whole=False))
    for sample in told:
        writer.add(Sample(of=PASS_NAME, round=number, **sample))
    writer.add(Round(of=PASS_NAME, round=number, whole=True))


def _run_of(profile: Profile) -> Run:
    for sample in profile.samples(PASS_NAME, "run"):
        run = msgspec.convert(sample.detail["run"], Run)
        if run.pulses:
            return run
    raise InputError(
        "the profile has no load pulses, by which a log's clock is found; measure with `--passes energy --energy "
        "external` while the meter logs, then give its file"
    )
