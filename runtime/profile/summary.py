"""What a profile says, as figures with intervals: made from its lines each time, never stored beside them."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from edgepress.runtime.profile.memories import in_words, memory_figures
from edgepress.runtime.profile.records import SPOILING, Profile, Sample, Trouble
from edgepress.runtime.profile.statistics import Interval, interval_of

_STEADY = 5  # windows whose median is a throughput
_SLOWED = 0.95
_MOST_REASONS = 3  # that are listed, each in a line
_MARKS = {
    "throttled": "taken while the system slowed the processor down",
    "clock": "taken at another clock than is allowed",
    "busy": "taken beside other processes that used more than a tenth of a core",
    "charging changed": "during which a charger was plugged in or out",
    "coarse": "too short for their counter",
}
_UNITS = {
    "prefill": "a prefill token",
    "encode": "a source",
    "decode": "a decode token",
    "answer": "an answer",
    "example": "an example",
}
_OPERATIONS = "thousand million operations"
_ALONE = {
    "memory": ("products of a row", "GB", 1e9),
    "int8": ("products", _OPERATIONS, 1e9),
    "float32": ("a float32 product", _OPERATIONS, 1e9),
    "attention_decode": ("attention of a token", _OPERATIONS, 1e9),
    "attention_prefill": ("attention of a chunk", _OPERATIONS, 1e9),
    "nodes": ("light nodes", "thousand nodes", 1e3),
    "numbers": ("light nodes of a chunk", "thousand million numbers", 1e9),
}
"""Kernels that are timed alone: what they are, and the unit of their rate."""


@dataclass(frozen=True)
class Slowdown:
    """When sustained decoding became slower, in seconds from its beginning, and what share of its speed was left."""

    at_seconds: float
    share_left: float


@dataclass(frozen=True)
class Sustained:
    """Tokens or runs (``unit``) a second in the first and the last windows of sustained work.

    ``slowdown`` is None where it never slowed down.
    """

    first: float
    last: float
    seconds: float
    unit: str
    slowdown: Slowdown | None


def observations(profile: Profile, of: str) -> dict[str, list[float]]:
    """Of each timed quantity of a pass one value a round: the median of its good samples; a round without any is left
    out. Names are ``ttft_seconds at 64`` (tokens), ``latency_seconds of 1`` (example) and the like.
    """
    by_round: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in profile.samples(of, good=True):
        for name, values in sample.measured.items():
            if name.endswith("_seconds") and name not in ("run_seconds", "at_seconds", "window_seconds"):
                by_round[_named(name, sample)][sample.round] += values
    return {name: [median(values) for values in rounds.values()] for name, rounds in by_round.items()}


def intervals(profile: Profile, of: str) -> dict[str, Interval]:
    """Each timed quantity of a pass with its 95 % interval, in seconds."""
    return {name: interval_of(values) for name, values in observations(profile, of).items()}


def _named(name: str, sample: Sample) -> str:
    if (rows := sample.detail.get("rows")) is not None and name == "latency_seconds":
        return f"{name} of {rows}"
    length = sample.detail.get("length")
    return name if length is None else f"{name} at {length}"


def marked(profile: Profile, of: str) -> dict[str, int]:
    """How many samples of a pass have each mark."""
    counts: dict[str, int] = defaultdict(int)
    for sample in profile.samples(of):
        for mark in sample.marks:
            counts[mark] += 1
    return dict(counts)


def repeated_times(profile: Profile) -> tuple[str, list[float]]:
    """What is done most often, ``token`` or ``run``, and the seconds of each good one: runs of the fewest examples."""
    tokens = profile.samples("speed", "decode", good=True)
    if tokens:
        return "token", [seconds for sample in tokens for seconds in sample.measured["step_seconds"]]
    runs = profile.samples("speed", "run", good=True)
    fewest = min((sample.detail["rows"] for sample in runs), default=0)
    few = [sample for sample in runs if sample.detail["rows"] == fewest]
    return "run", [seconds for sample in few for seconds in sample.measured["latency_seconds"]]


def step_quantiles(profile: Profile) -> dict[str, float] | None:
    """Seconds of a token or run that 50, 90, 95 and 99 % are within, of all good samples; None where there is none."""
    _, steps = repeated_times(profile)
    if not steps:
        return None
    return {f"p{share}": float(np.quantile(steps, share / 100)) for share in (50, 90, 95, 99)}


def window_rates(profile: Profile) -> tuple[str, list[float], list[float]]:
    """Of sustained work what is counted (``tokens`` or ``runs``), the seconds since it began, and so many a second."""
    windows = profile.samples("sustained", "window")
    unit = "runs" if any("window_runs" in sample.measured for sample in windows) else "tokens"
    rates = [sample.measured[f"window_{unit}"][0] / sample.measured["window_seconds"][0] for sample in windows]
    return unit, [sample.measured["at_seconds"][0] for sample in windows], rates


def sustained(profile: Profile) -> Sustained | None:
    """How speed held up: the first window after which the median of five stays below 95 % of the first five's."""
    unit, at, rates = window_rates(profile)
    if len(rates) < 2 * _STEADY:
        return None
    medians = [median(rates[index : index + _STEADY]) for index in range(len(rates) - _STEADY + 1)]
    first, last = medians[0], medians[-1]
    slow = next((index for index in range(len(medians)) if max(medians[index:]) < _SLOWED * first), None)
    found = None if slow is None else Slowdown(at[slow], median(rates[slow:]) / first)
    return Sustained(first, last, at[-1], unit, found)


@dataclass(frozen=True)
class EnergyFigure:
    """Energy by one source: joules of one unit of ``what`` with their standard uncertainties, and watts.

    ``refused`` says why the figure is too uncertain to be used; None where it is not.
    """

    source: str
    of: str
    what: str
    joules: float
    joules_error: float
    net_joules: float
    net_joules_error: float
    idle_watts: float
    mean_watts: float
    peak_watts: float
    refused: str | None

    @property
    def unit(self) -> str:
        """What one unit is, in words."""
        return _UNITS[self.what]


def energy(profile: Profile) -> list[EnergyFigure]:
    """Every energy figure."""
    return [
        EnergyFigure(
            sample.detail["source"],
            sample.detail["of"],
            sample.what,
            sample.measured["joules"][0],
            sample.detail["joules_error"],
            sample.measured["net_joules"][0],
            sample.detail["net_joules_error"],
            sample.measured["idle_watts"][0],
            sample.measured["mean_watts"][0],
            sample.measured["peak_watts"][0],
            sample.detail["refused"],
        )
        for what in ("prefill", "encode", "decode", "answer", "example")
        for sample in profile.samples("energy", what)
    ]


def no_energy(profile: Profile) -> dict[str, str]:
    """Why sources gave none."""
    return {sample.detail["source"]: sample.detail["reason"] for sample in profile.samples("energy", "unavailable")}


def operator_shares(profile: Profile, what: str) -> dict[str, float]:
    """Share of the time of a part of a turn by operator, the dearest first."""
    sums: dict[str, float] = defaultdict(float)
    for sample in profile.samples("operators", what):
        for operator, microseconds in zip(
            sample.detail["operators"], sample.measured["node_microseconds"], strict=True
        ):
            sums[operator] += microseconds
    whole = sum(sums.values())
    return {name: value / whole for name, value in sorted(sums.items(), key=lambda item: -item[1])} if whole else {}


def kernel_rates(profile: Profile) -> dict[str, float]:
    """What kernels alone work through in a second, by kind (:data:`_ALONE`)."""
    found = {}
    for name, known in intervals(profile, "roofline").items():
        kind = name.removesuffix("_seconds")
        amount = profile.samples("roofline", kind)[0].detail.get("amount")
        if kind in _ALONE and amount is not None:
            found[kind] = amount / known.value
    return found


def figures(profile: Profile) -> list[tuple[str, str]]:
    """Every figure as a name and what is known of it, in words."""
    found = [
        (name, f"{_seconds(known)}, {known.rounds} rounds{_rate(profile, name, known)}")
        for name, known in intervals(profile, "speed").items()
    ]
    found += [
        (f"native {name}", f"{_seconds(known)}, {known.rounds} rounds{_rate(profile, name, known)}")
        for name, known in intervals(profile, "native").items()
    ]
    found += [
        (
            f"native memory, {sample.detail['phase']}",
            in_words({name: size for name, (size,) in sample.measured.items()}),
        )
        for sample in profile.samples("native", "memory")
        if sample.round == 0
    ]
    if (quantiles := step_quantiles(profile)) is not None:
        words = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in quantiles.items())
        found.append((f"a {repeated_times(profile)[0]}", words))
    found += [
        (f"cold {name}", f"{_seconds(known)}, {known.rounds} rounds")
        for name, known in intervals(profile, "cold").items()
    ]
    for kind, rate in kernel_rates(profile).items():
        what, unit, scale = _ALONE[kind]
        found.append((f"{what}, alone", f"{rate / scale:.1f} {unit}/s"))
    for of in ("speed", "cold", "native", "sustained", "roofline"):
        count = len(profile.samples(of))
        found += [
            (f"{of}: {mark}", f"{some} of {count} samples {_MARKS[mark]}: {_counts(mark)}")
            for mark, some in marked(profile, of).items()
        ]
    found += memory_figures(profile)
    if (held := sustained(profile)) is not None:
        found.append((f"sustained for {held.seconds:.0f} s", _sustained(held)))
    found += [(f"energy, {figure.what}, {figure.source}", _energy(figure)) for figure in energy(profile)]
    missing = no_energy(profile)
    if len(missing) > _MOST_REASONS:
        found.append(("no energy by", f"{len(missing)} counters that are not there; the profile's lines have why"))
    else:
        found += [(f"no energy by {name}", reason) for name, reason in missing.items()]
    for what in ("prefill", "encode", "decode", "run"):
        if shares := operator_shares(profile, what):
            top = ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:5])
            found.append((f"time of {what}", top))
    return found + [
        (record.of, f"not measured: {record.error}") for record in profile.records if isinstance(record, Trouble)
    ]


def format_summary(profile: Profile) -> str:
    """The figures as lines for a terminal."""
    header = profile.header
    lines = [f"{header.bundle} on {device_of(header.description)}, by {header.device}"]
    return "\n".join([*lines, *(f"  {name:30} {words}" for name, words in figures(profile))])


def _counts(mark: str) -> str:
    return "not averaged" if mark in SPOILING else "averaged all the same"


def device_of(description: dict[str, Any]) -> str:
    """What a device is called: its model, else its SoC, else its architecture."""
    return str(description.get("model") or description.get("soc") or description.get("architecture"))


def _seconds(found: Interval) -> str:
    return f"{1e3 * found.value:.2f} ms (95 %: {1e3 * found.low:.2f} to {1e3 * found.high:.2f})"


def _rate(profile: Profile, name: str, found: Interval) -> str:
    if name.startswith("ttft_seconds at ") and profile.header.kind == "language model":
        return f", {int(name.rpartition(' ')[2]) / found.value:,.0f} tokens/s"
    if name.startswith("latency_seconds of "):
        return f", {int(name.rpartition(' ')[2]) / found.value:,.1f} examples/s"
    return f", {1 / found.value:,.1f} tokens/s" if name.startswith("step_seconds") else ""


def _sustained(held: Sustained) -> str:
    if held.slowdown is None:
        return f"{held.first:.1f} {held.unit}/s at first, {held.last:.1f} at last"
    slow = held.slowdown
    return f"{held.first:.1f} {held.unit}/s at first; {slow.share_left:.0%} of it from {slow.at_seconds:.0f} s on"


def _energy(figure: EnergyFigure) -> str:
    said = (
        f"{figure.net_joules:.3g} ± {figure.net_joules_error:.1g} J for {figure.unit} above idle "
        f"({figure.joules:.3g} in all; mean {figure.mean_watts:.2f} W, peak {figure.peak_watts:.2f}, "
        f"idle {figure.idle_watts:.2f})"
    )
    return said if figure.refused is None else f"{said}; not to be used: {figure.refused}"
