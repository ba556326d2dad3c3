"""The pictures of a profile: each a function that draws one of what was measured, or None where nothing was."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from statistics import median
from typing import Any

import numpy as np

from edgepress.runtime.profile.memories import Limit, known_limits, phase_of
from edgepress.runtime.profile.page.svg import Chart, axis, bars, log_axis
from edgepress.runtime.profile.records import Profile
from edgepress.runtime.profile.summary import (
    intervals,
    kernel_rates,
    operator_shares,
    repeated_times,
    step_quantiles,
    sustained,
    window_rates,
)

_MOST_OPERATORS = 10
_FAR = 4  # times the highest memory: a limit above it is told in words, for a line would flatten the rest
_HEADROOM = 1.25  # above a limit, so that its words are not among those at the top
_LAYER = "layer"
_PARTS = {"decode": "a decoded token", "run": "a run", "prefill": "a prompt", "encode": "a source"}
"""Parts of a turn in words, what is done most often first."""


@dataclass(frozen=True)
class Picture:
    """A heading, a sentence that says how to read it, the picture, and its figures as a table: a header and rows."""

    heading: str
    about: str
    drawing: str
    table: tuple[tuple[str, ...], ...]


def first_tokens(profile: Profile) -> Picture | None:
    """Distribution of times to first token by prompt or source: every sample, as the share that took no longer."""
    by_length: dict[int, list[float]] = defaultdict(list)
    samples = (profile.samples("speed", what, good=True) for what in ("prefill", "encode"))
    for sample in chain.from_iterable(samples):
        by_length[sample.detail["length"]] += [1e3 * value for value in sample.measured["ttft_seconds"]]
    return _distribution(
        "Time to first token", "ms", {_text_of(profile, length): times for length, times in by_length.items()},
        "Share of prompts whose first token came within the time.",
    )  # fmt: skip


def _text_of(profile: Profile, length: int) -> str:
    return f"{length} tokens" if profile.header.kind == "language model" else f"a source of {length}"


def token_times(profile: Profile) -> Picture | None:
    """Distribution of decode steps, or of runs of the fewest examples."""
    what, seconds = repeated_times(profile)
    times = [1e3 * value for value in seconds]
    found = _distribution(f"Time of a {what}", "ms", {what: times}, f"Share of {what}s that came within the time.")
    quantiles = step_quantiles(profile)
    if found is None or quantiles is None:
        return None
    rows = tuple((name, f"{1e3 * value:.2f} ms") for name, value in quantiles.items())
    return Picture(found.heading, found.about, found.drawing, ((f"share of {what}s", "within"), *rows))


def _distribution(heading: str, unit: str, series: dict[str, list[float]], about: str) -> Picture | None:
    series = {name: sorted(values) for name, values in series.items() if values}
    if not series:
        return None
    every = [value for values in series.values() for value in values]
    chart = Chart(f"{heading}: {about}", axis([*every, 0.0], unit, zero=True), axis([0, 100], "% within", zero=True))
    for colour, (name, values) in enumerate(series.items()):
        shares = [100 * (number + 1) / len(values) for number in range(len(values))]
        chart.line([values[0], *values], [0, *shares], colour, name if len(series) > 1 else "", steps=True)
    rows = tuple(
        (name, f"{median(v):.2f} {unit}", f"{min(v):.2f} to {max(v):.2f} {unit}", str(len(v)))
        for name, v in series.items()
    )
    return Picture(heading, about, chart.draw(), (("", "median", "range", "samples"), *rows))


def memory(profile: Profile) -> Picture | None:
    """Memory after each phase, over all openings, with the limits that are known."""
    samples = profile.samples("memory")
    if not samples:
        return None
    kinds = {"rss_bytes": "resident", "anonymous_bytes": "anonymous", "pss_bytes": "proportional"}
    kinds = {key: name for key, name in kinds.items() if all(key in sample.measured for sample in samples)}
    if not kinds:
        return None
    places = list(range(len(samples)))
    sizes = {key: [sample.measured[key][0] / 1e6 for sample in samples] for key in kinds}
    every = [size for of_kind in sizes.values() for size in of_kind]
    limits = sorted(known_limits(profile), key=lambda limit: limit.bytes)
    drawn = [limit for limit in limits[:1] if limit.bytes / 1e6 <= _FAR * max(every)]  # the least is the one that binds
    heights = [*every, *(_HEADROOM * limit.bytes / 1e6 for limit in drawn)]
    chart = Chart("Memory by phase", axis(places, "phases, one after the other"), axis(heights, "MB", zero=True))
    for limit in drawn:
        chart.level(limit.bytes / 1e6, _said(limit))
    for colour, (key, name) in enumerate(kinds.items()):
        chart.line(places, sizes[key], colour, name, steps=True)
    opened = [place for place, sample in zip(places, samples, strict=True) if sample.what == "loaded"]
    for number, place in enumerate(opened):
        chart.upright(place, ("opened", "again")[number] if number < 2 else "")
    first = [sample for sample in samples if sample.detail["repeat"] == 0]
    rows = tuple((phase_of(sample), *(f"{sample.measured[key][0] / 1e6:.1f} MB" for key in kinds)) for sample in first)
    about = "After each phase, with the bundle opened and closed several times: what grows with each time has leaked."
    others = [_said(limit) for limit in limits if limit not in drawn]
    about += f" Not drawn: {'; '.join(others)}." if others else ""
    return Picture("Memory", about, chart.draw(), (("phase", *kinds.values()), *rows))


def _said(limit: Limit) -> str:
    return f"{limit.by}, {limit.bytes / 1e6:,.0f} MB"


def power(profile: Profile) -> Picture | None:
    """Power over time by each rail that counts."""
    traces = [sample for sample in profile.samples("energy", "trace") if sample.detail["counted"]]
    if not traces:
        return None
    seconds = [value for sample in traces for value in sample.measured["at_seconds"]]
    watts = [value for sample in traces for value in sample.measured["watts"]]
    chart = Chart("Power over time", axis(seconds, "s"), axis(watts, "W", zero=True))
    rows = []
    for colour, sample in enumerate(traces):
        name = f"{sample.detail['source']} {sample.detail['rail']}"
        chart.line(sample.measured["at_seconds"], sample.measured["watts"], colour, name if len(traces) < 4 else "")
        values = sample.measured["watts"]
        rows.append((name, f"{np.mean(values):.2f} W", f"{max(values):.2f} W"))
    about = "Idle first, then one turn after the other, then idle again."
    return Picture("Power", about, chart.draw(), (("rail", "mean", "peak"), *rows))


def throughput(profile: Profile) -> Picture | None:
    """Tokens or runs a second over a minute without a pause, and when they became fewer."""
    unit, at, rates = window_rates(profile)
    if len(rates) < 2:
        return None
    heading = "Sustained decoding" if unit == "tokens" else "Sustained runs"
    chart = Chart(heading, axis([0.0, *at], "s", zero=True), axis(rates, f"{unit}/s", zero=True))
    chart.line(at, rates, 0)
    held = sustained(profile)
    rows = [("all windows", f"{median(rates):.1f} {unit}/s")]
    if held is not None:
        rows += [("at first", f"{held.first:.1f} {unit}/s"), ("at last", f"{held.last:.1f} {unit}/s")]
        if held.slowdown is not None:
            chart.upright(held.slowdown.at_seconds, f"{held.slowdown.share_left:.0%} from here on")
    about = "Without a pause, a point each second: where the line falls and stays low, the device slowed down."
    return Picture(heading, about, chart.draw(), (("", "speed"), *rows))


def heat(profile: Profile) -> Picture | None:
    """Temperatures during sustained work, by zone."""
    return _over_time(
        profile,
        "Temperatures",
        "°C",
        lambda after: dict(after.get("celsius", {})),
        "Each thermal zone meanwhile.",
    )


def clocks(profile: Profile) -> Picture | None:
    """Clocks during sustained work, by core."""
    return _over_time(
        profile, "Clocks", "MHz",
        lambda after: {f"core {number}": mhz for number, mhz in enumerate(after.get("mhz", ()))},
        "Each core meanwhile.",
    )  # fmt: skip


def _over_time(
    profile: Profile, heading: str, unit: str, values_of: Callable[[dict[str, Any]], dict[str, float]], about: str
) -> Picture | None:
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in profile.samples("sustained", "window"):
        if sample.circumstances is not None:
            for name, value in values_of(sample.circumstances["after"]).items():
                series[name].append((sample.measured["at_seconds"][0], value))
    if not series:
        return None
    chart = Chart(
        heading,
        axis([0.0, *(at for points in series.values() for at, _ in points)], "s", zero=True),
        axis([value for points in series.values() for _, value in points], unit),
    )
    for colour, (name, points) in enumerate(series.items()):
        chart.line([at for at, _ in points], [v for _, v in points], colour % 6, name if len(series) < 5 else "")
    rows = tuple(
        (name, f"{points[0][1]:.0f}", f"{max(v for _, v in points):.0f}", f"{points[-1][1]:.0f}")
        for name, points in series.items()
    )
    return Picture(heading, about, chart.draw(), (("", f"first, {unit}", "highest", "last"), *rows))


def operators(profile: Profile) -> Picture | None:
    """Time of a decoded token or a run by operator, and of what comes before it."""
    by_part = {what: shares for what in _PARTS if (shares := operator_shares(profile, what))}
    if not by_part:
        return None
    shares = next(iter(by_part.values()))
    rows = [(name, 100 * share, f"{share:.1%}") for name, share in list(shares.items())[:_MOST_OPERATORS]]
    names = dict.fromkeys(name for part in by_part.values() for name in part)
    table = tuple((name, *(f"{part.get(name, 0):.1%}" for part in by_part.values())) for name in names)
    about = (
        f"Share of the time of {_PARTS[next(iter(by_part))]}, by onnxruntime's profiler, which makes small nodes look "
        "dearer than they are."
    )
    return Picture("Time by operator", about, bars("Time by operator", rows), (("operator", *by_part), *table))


def layers(profile: Profile) -> Picture | None:
    """Time of a decoded token or a run by layer of the model, as far as nodes' names say which."""
    sums: dict[int, float] = defaultdict(float)
    rest = 0.0
    what = next((what for what in _PARTS if profile.samples("operators", what)), "decode")
    for sample in profile.samples("operators", what):
        for node, microseconds in zip(sample.detail["nodes"], sample.measured["node_microseconds"], strict=True):
            number = layer_of(node)
            if number is None:
                rest += microseconds
            else:
                sums[number] += microseconds
    if not sums:
        return None
    numbers = sorted(sums)
    chart = Chart("Time by layer", axis(numbers, _LAYER), axis([*sums.values()], "µs", zero=True))
    chart.points(numbers, [sums[number] for number in numbers], 0)
    rows = tuple((f"{_LAYER} {number}", f"{sums[number]:.0f} µs") for number in numbers)
    about = f"Of {_PARTS[what]}; embedding, head and what belongs to no layer take {rest:.0f} µs."
    return Picture("Time by layer", about, chart.draw(), (("", "time"), *rows, ("no layer", f"{rest:.0f} µs")))


def roofline(profile: Profile) -> Picture | None:
    """The most that products reach by how many operations a byte takes, and where this bundle's calls are."""
    rates, times = kernel_rates(profile), intervals(profile, "speed")
    if not {"memory", "int8"} <= rates.keys():
        return None
    works = {
        sample.detail["call"]: {name: value for name, (value,) in sample.measured.items()}
        for sample in profile.samples("roofline", "work")
        if sample.round == 0 and sample.detail["call"] in times
    }
    calls = []  # name, operations a byte, operations a second
    for name, work in works.items():
        operations = work["products"] + work["attention"]
        moved = work["weight_bytes"] + work["state_bytes"]
        calls.append((name.replace("_seconds", ""), operations / moved, operations / times[name].value))
    if not calls:
        return None
    ridge = rates["int8"] / rates["memory"]
    across = log_axis([ridge, *(x for _, x, _ in calls)], "operations a byte")
    ends = [across.low, min(ridge, across.high), across.high]
    reached = [min(rates["memory"] * x, rates["int8"]) for x in ends]
    up = log_axis([y / 1e9 for y in (*reached, *(y for _, _, y in calls))], "10⁹ operations/s")
    chart = Chart("Roofline", across, up)
    chart.line(ends, [y / 1e9 for y in reached], 0)
    for colour, (name, x, y) in enumerate(calls, 1):
        chart.points([x], [y / 1e9], colour % 6, name if len(calls) < 4 else "")
    rows = [
        (name, f"{x:,.1f}", f"{y / 1e9:,.1f}", f"{y / min(rates['memory'] * x, rates['int8']):.0%}")
        for name, x, y in calls
    ]
    about = (
        "What products alone reach: left of the bend they wait for memory, right of it for the cores. Dots are calls."
    )
    header = ("call", "operations a byte", "10⁹ operations/s", "of what products reach")
    return Picture("Roofline", about, chart.draw(), (header, *rows))


def layer_of(node: str) -> int | None:
    """The layer that a node's name begins with, such as 3 of ``layers.3.mlp.down``; None for one of no layer."""
    words = node.replace("/", ".").strip(".").split(".")
    for before, number in pairwise(words):
        if before in ("layers", "layer", "h", "blocks") and number.isdigit():
            return int(number)
    return None


PICTURES: Sequence[Callable[[Profile], Picture | None]] = (
    first_tokens, token_times, throughput, memory, power, heat, clocks, operators, layers, roofline,
)  # fmt: skip
