"""Joules of a stretch of time, with their uncertainty; idle power, and what is left without it.

Uncertainties are standard ones, combined as the *Guide to the expression of uncertainty in measurement* (JCGM 100:2008)
does: independent parts by the root of the sum of squares (its equation 10), a value known only to lie within ±a by
a/√3, one rounded to steps of s by s/√12 (4.3.7). A sensor's gain error is the same in every value that it shows, so it
is kept apart (:attr:`Quantity.gain`): it stays in a difference of two of its values, and goes out of their ratio.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.machine.metering.readings import Rail, Trace

_NORMAL_95 = 1.959964  # of a normal distribution, 95 % lie within this many standard deviations
_IDLE_BATCHES = 8
_GAP = 3.0  # a pause of more than this many median intervals is one in which anything may have happened


@dataclass(frozen=True)
class Quantity:
    """A value, the standard uncertainty of what varies from run to run, and the bound of its relative gain error."""

    value: float
    random: float
    gain: float = 0.0

    @property
    def error(self) -> float:
        """Standard uncertainty, both parts combined."""
        return float(np.hypot(self.random, self.gain * self.value / np.sqrt(3.0)))

    @property
    def interval(self) -> tuple[float, float]:
        """The value lies in this with 95 % probability."""
        return self.value - _NORMAL_95 * self.error, self.value + _NORMAL_95 * self.error

    def per(self, count: float) -> "Quantity":
        """The same for one of ``count`` tokens, or for a second of ``count`` seconds."""
        return Quantity(self.value / count, self.random / count, self.gain)


@dataclass(frozen=True)
class TooCoarse:
    """The counter cannot tell: the uncertainty of the run's energy, and the length of a run that would do."""

    relative_error: float
    allowed: float
    seconds: float
    needed_seconds: float

    def __str__(self) -> str:
        return (
            f"its energy is known to ±{self.relative_error:.0%} in a run of {self.seconds:.3g} s, and "
            f"±{self.allowed:.0%} are asked for; a run of {self.needed_seconds:.3g} s would do"
        )


def energy_between(trace: Trace, start: float, end: float) -> Quantity:
    """Energy of ``trace`` from ``start`` to ``end`` (seconds of ``perf_counter``), in joules.

    A counter is interpolated between the readings around each end; power is integrated by the trapezoidal rule.
    The uncertainty has these parts:

    1. rounding: a counter's two ends by its step; power by its step all the time, since it may always be rounded
       to the same side
    2. age: each end by what the counter may have missed since its last update (power times ``interval``, or, of
       power, its largest change times ``interval``)
    3. sampling, of power alone: between two readings it may have been either of them. Each pair contributes
       (Δp·Δt)²/2 to the variance, which is right for readings that differ by chance and too much for ramps
    4. gaps, of power alone: in a pause of more than three median intervals it may have been anything that was seen

    Raises:
        InputError: the readings do not reach from ``start`` to ``end``.

    """
    if len(trace.seconds) < 2 or trace.seconds[0] > start or trace.seconds[-1] < end:
        raise InputError(
            f"{trace.rail.name} was not read from the beginning of the run to its end; read it before and after, and "
            "at least twice"
        )
    if trace.rail.kind == "energy":
        return _counted(trace, start, end)
    return _integrated(trace, start, end)


def _counted(trace: Trace, start: float, end: float) -> Quantity:
    first, last = np.interp([start, end], trace.seconds, trace.values)
    power = (trace.values[-1] - trace.values[0]) / (trace.seconds[-1] - trace.seconds[0])  # mean over all readings
    # ends lie between two readings, over which the power need not be level
    pauses = _pause_around(trace.seconds, start) + _pause_around(trace.seconds, end)
    ends = (2 * resolution(trace) ** 2 + 2 * (power * interval(trace)) ** 2 + (power * pauses) ** 2 / 4) / 12
    return Quantity(float(last - first), float(np.sqrt(ends)), trace.rail.gain)


def _pause_around(seconds: NDArray[np.float64], moment: float) -> float:
    """Time between the readings before and after ``moment``; 0 where it is one of them."""
    after = int(np.searchsorted(seconds, moment))
    if after < len(seconds) and seconds[after] == moment:
        return 0.0
    return float(seconds[after] - seconds[after - 1])


def _integrated(trace: Trace, start: float, end: float) -> Quantity:
    inside = (trace.seconds > start) & (trace.seconds < end)
    seconds = np.concatenate([[start], trace.seconds[inside], [end]])  # (points,)
    watts = np.interp(seconds, trace.seconds, trace.values)  # (points,)
    length, steps = np.diff(seconds), np.diff(watts)  # (points - 1,)
    spread = float(watts.max() - watts.min())
    pauses = np.diff(trace.seconds)
    gap = float(length[length > _GAP * np.median(pauses)].sum())
    variance = (
        (resolution(trace) * (end - start)) ** 2 / 12
        + 2 * (spread * interval(trace)) ** 2 / 12
        + float(((steps * length) ** 2).sum()) / 2
        + (spread * gap) ** 2 / 12
    )
    return Quantity(float(np.trapezoid(watts, seconds)), float(np.sqrt(variance)), trace.rail.gain)


def resolution(trace: Trace) -> float:
    """The step of a rail's values: what is declared, else the smallest change seen; 0 where nothing changed."""
    if trace.rail.resolution is not None:
        return trace.rail.resolution
    changes = np.abs(np.diff(trace.values))
    return float(changes[changes > 0].min(initial=np.inf)) if changes.any() else 0.0


def interval(trace: Trace) -> float:
    """Seconds between two updates of a rail: what is declared, else the median time between two changes seen.

    Where nothing changed it may be as long as the whole trace.
    """
    if trace.rail.interval is not None:
        return trace.rail.interval
    changed = trace.seconds[1:][np.diff(trace.values) != 0]
    if len(changed) < 2:
        return float(trace.seconds[-1] - trace.seconds[0])
    return float(np.median(np.diff(changed)))


def idle_power(trace: Trace, start: float, end: float) -> Quantity:
    """Mean power from ``start`` to ``end``, in which nothing of ours ran, in watts.

    Its uncertainty is the larger of what the meter cannot tell and of what eight batches of the time differ (the
    method of batch means), since what else the system does in idle time does not come evenly.
    """
    mean = energy_between(trace, start, end).per(end - start)
    edges = np.linspace(start, end, _IDLE_BATCHES + 1)
    batches = [energy_between(trace, low, high).value / (high - low) for low, high in pairwise(edges)]
    scatter = float(np.std(batches, ddof=1) / np.sqrt(_IDLE_BATCHES))
    return Quantity(mean.value, max(mean.random, scatter), mean.gain)


def without_idle(energy: Quantity, idle: Quantity, seconds: float) -> Quantity:
    """What a run of ``seconds`` used above ``idle`` power of the same rail: E - P·t, its errors propagated."""
    return Quantity(
        energy.value - idle.value * seconds, float(np.hypot(energy.random, idle.random * seconds)), energy.gain
    )


def total(quantities: list[tuple[Rail, Quantity]]) -> Quantity | None:
    """Sum of the rails that count, each with an uncertainty of its own; None where none does.

    Gain errors of one maker's sensors may well agree, so the largest bound is taken for all.
    """
    counted = [quantity for rail, quantity in quantities if rail.total]
    if not counted:
        return None
    return Quantity(
        sum(quantity.value for quantity in counted),
        float(np.sqrt(sum(quantity.random**2 for quantity in counted))),
        max(quantity.gain for quantity in counted),
    )


def coarse(energy: Quantity, seconds: float, allowed: float = 0.1) -> TooCoarse | None:
    """Whether a run's energy is known worse than to ±``allowed`` (95 %) by its random part, and how long would do.

    What a counter's ends leave open does not grow with the run, so twice the length is twice as exact; what sampling
    leaves open grows with its root, so the length given is enough for counters and a lower bound for power.
    """
    margin = _NORMAL_95 * energy.random
    if energy.value > 0 and margin <= allowed * energy.value:
        return None
    if energy.value <= 0:
        return TooCoarse(float("inf"), allowed, seconds, float("inf"))
    relative = margin / energy.value
    return TooCoarse(relative, allowed, seconds, seconds * relative / allowed)
