"""Profiles held against each other: each quantity's ratio with its interval, and what is not the same beside it.

Only like is compared. Two profiles of another length of prompt, another number of threads or another regime of clocks
answer different questions, and a ratio of them answers none: that is refused, with what differs. Another bundle,
version or device is what comparisons are for, and is said first.
"""

from dataclasses import dataclass
from math import hypot
from statistics import median
from typing import Any

import msgspec

from edgepress.errors import InputError
from edgepress.runtime.profile.circumstances import Moment, regime
from edgepress.runtime.profile.memories import memory_by_phase
from edgepress.runtime.profile.profiling import chosen_threads
from edgepress.runtime.profile.records import Profile
from edgepress.runtime.profile.statistics import Difference, difference
from edgepress.runtime.profile.summary import EnergyFigure, energy, observations
from edgepress.terminal.tables import format_table

_MUST_AGREE = ("prompt_lengths", "decode_tokens", "context", "prepared", "rows", "length", "inputs")
_TIMED = ("speed", "cold")


@dataclass(frozen=True)
class Compared:
    """One quantity of two profiles: values, and the ratio of the second to the first, with an interval if it has one.

    ``unit`` is s, B or J. Bytes are counted once, not sampled: ``difference`` is None.
    """

    name: str
    unit: str
    first: float
    second: float
    difference: Difference | None

    @property
    def ratio(self) -> float:
        """Second over first."""
        return self.second / self.first


@dataclass(frozen=True)
class Comparison:
    """Two profiles: what is not the same beside the figures, and the figures."""

    changed: tuple[str, ...]
    figures: tuple[Compared, ...]


def compare(first: Profile, second: Profile) -> Comparison:
    """Hold two profiles against each other.

    Raises:
        InputError: they were measured so that a ratio would say nothing; the message has every reason.

    """
    if reasons := incomparable(first, second):
        raise InputError(f"these profiles cannot be compared: {'; '.join(reasons)}; measure both alike")
    return Comparison(tuple(_changed(first, second)), tuple(_figures(first, second)))


def incomparable(first: Profile, second: Profile) -> list[str]:
    """Why two profiles do not answer the same question; nothing where they do."""
    if first.header.kind != second.header.kind:
        return [f"one is of the kind {first.header.kind!r}, the other of {second.header.kind!r}"]
    found = []
    for name in _MUST_AGREE:
        before, after = (profile.header.settings.get(name) for profile in (first, second))
        if before != after:
            found.append(f"{name} is {before} in one and {after} in the other")
    threads = [_threads(profile) for profile in (first, second)]
    if threads[0] != threads[1]:
        found.append(f"one ran on {threads[0]} threads, the other on {threads[1]} (give --threads)")
    emulated = [bool(profile.header.description.get("emulated")) for profile in (first, second)]
    if emulated[0] != emulated[1]:
        found.append("one processor is emulated")
    if first.header.device == second.header.device:
        before, after = _regime(first), _regime(second)
        found += [
            f"{name.replace('_', ' ')} was {before[name]} and {after[name]}: another regime of clocks"
            for name in sorted(before.keys() & after.keys())
            if before[name] != after[name]
        ]
    return found


def _threads(profile: Profile) -> int | None:
    asked = profile.header.settings["threads"]
    return asked if asked is not None else chosen_threads(profile)


def _regime(profile: Profile) -> dict[str, Any]:
    """The regime at the first timed sample; nothing where no pass was timed."""
    for of in _TIMED:
        for sample in profile.samples(of):
            if sample.circumstances is not None:
                return regime(msgspec.convert(sample.circumstances["before"], Moment))
    return {}


def _changed(first: Profile, second: Profile) -> list[str]:
    before, after = first.header, second.header
    found = []
    if before.bundle_hash != after.bundle_hash:
        found.append(f"bundle {_short(before.bundle_hash)} → {_short(after.bundle_hash)}")
    if before.device != after.device:
        found.append(f"device {before.device} → {after.device}")
    for name in ("model", "soc", "os", "kernel"):
        if before.description.get(name) != after.description.get(name):
            found.append(f"{name} {before.description.get(name)} → {after.description.get(name)}")
    for name in dict.fromkeys((*before.versions, *after.versions)):
        if before.versions.get(name) != after.versions.get(name):
            found.append(f"{name} {before.versions.get(name)} → {after.versions.get(name)}")
    return found


def _short(digest: str | None) -> str:
    return "without a hash" if digest is None else digest[:12]


def _figures(first: Profile, second: Profile) -> list[Compared]:
    found = [Compared("bundle", "B", first.header.bundle_bytes, second.header.bundle_bytes, None)]
    for of in _TIMED:
        before, after = observations(first, of), observations(second, of)
        found += [
            Compared(
                f"{of} {name}", "s", median(before[name]), median(after[name]), difference(after[name], before[name])
            )
            for name in before
            if name in after
        ]
    sizes = memory_by_phase(first), memory_by_phase(second)
    for phase in sizes[0]:
        for name in ("rss_bytes", "anonymous_bytes", "peak_rss_bytes"):
            if name in sizes[0][phase] and name in sizes[1].get(phase, {}):
                label = f"memory, {phase}, {name.removesuffix('_bytes').replace('_', ' ')}"
                found.append(Compared(label, "B", sizes[0][phase][name], sizes[1][phase][name], None))
    joules = [{(figure.source, figure.what): figure for figure in energy(profile)} for profile in (first, second)]
    for key, before_figure in joules[0].items():
        after_figure = joules[1].get(key)
        if after_figure is None or before_figure.refused or after_figure.refused or before_figure.net_joules <= 0:
            continue
        label = f"energy of {before_figure.unit} above idle, {key[0]}"
        found.append(
            Compared(
                label, "J", before_figure.net_joules, after_figure.net_joules, _of_energies(before_figure, after_figure)
            )
        )
    return found


def _of_energies(before: EnergyFigure, after: EnergyFigure) -> Difference:
    """Ratio of two energies by the same source, whose gain goes out: relative errors add as in JCGM 100, eq. 12."""
    ratio = after.net_joules / before.net_joules
    relative = hypot(*(figure.net_joules_error / figure.net_joules for figure in (before, after)))
    return Difference(ratio, ratio * (1 - 1.96 * relative), ratio * (1 + 1.96 * relative))


def format_comparison(comparison: Comparison) -> str:
    """As a table for a terminal: what changed, then each quantity, those that differ for sure with a star."""
    changed = [f"  changed: {line}" for line in comparison.changed] or [
        "  nothing changed in bundle, device or versions"
    ]
    rows = []
    for figure in comparison.figures:
        bounds, star = "counted once", ""
        if figure.difference is not None:
            bounds = f"{figure.difference.low:.3f} to {figure.difference.high:.3f}"
            star = "*" if figure.difference.significant else ""
        values = _value(figure.first, figure.unit), _value(figure.second, figure.unit)
        rows.append([figure.name, *values, f"{figure.ratio:.3f}", bounds, star])
    table = format_table(["quantity", "first", "second", "ratio", "95 %", ""], rows, right=(1, 2, 3))
    return "\n".join([*changed, table, "* differs: 1 is not in the interval of the ratio"])


def _value(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e6:.1f} MB"
    return f"{1e3 * value:.2f} ms" if unit == "s" else f"{value:.3g} J"
