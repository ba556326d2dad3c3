"""Pictures as SVG: axes with round numbers, lines, bars, points. Colours are style sheet classes, so a dark page can
change them.

A picture is 480 by 240 units and as wide as its column. Everything is drawn from data; nothing depends on a browser's
fonts but the width of labels, for which room is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT = 480, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 26, 40
_TICKS = 5
_NARROWEST = 1e-300  # of an axis: a part of less is no number that has a logarithm


@dataclass(frozen=True)
class Axis:
    """A direction: its ends, what stands beside it, and whether it is logarithmic."""

    low: float
    high: float
    label: str
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at the low end to 1."""
        if self.logarithmic:
            return (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values between the ends."""
        if self.logarithmic:
            return [10.0**power for power in range(ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9) + 1)]
        step = _round_step((self.high - self.low) / _TICKS)
        first = ceil(self.low / step - 1e-9)
        return [step * number for number in range(first, floor(self.high / step + 1e-9) + 1)]


def axis(values: Sequence[float], label: str, *, zero: bool = False) -> Axis:
    """An axis that holds all values, with a little room; ``zero`` begins it there."""
    finite = [value for value in values if isfinite(value)] or [0.0, 1.0]
    low, high = (0.0 if zero else min(finite)), max(finite)
    if high - low < _NARROWEST:
        low, high = (low - 0.5, high + 0.5) if not zero else (0.0, 1.0)
    room = 0.05 * (high - low)
    return Axis(low if zero else low - room, high + room, label)


def log_axis(values: Sequence[float], label: str) -> Axis:
    """A logarithmic axis of whole powers of ten around positive values."""
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    return Axis(10.0**low, 10.0 ** max(high, low + 1), label, logarithmic=True)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** floor(log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def short(value: float) -> str:
    """A tick's number."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e−").replace("e+", "e")
    return f"{value:,.4g}"


def _words(kind: str, x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


class Chart:
    """A picture with two axes, to which marks are added."""

    def __init__(self, title: str, across: Axis, up: Axis) -> None:
        self._title = title
        self._across = across
        self._up = up
        self._parts: list[str] = []
        self._legend: list[tuple[str, str]] = []

    def _x(self, value: float) -> float:
        return _LEFT + self._across.share(value) * (WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - self._up.share(value) * (HEIGHT - _TOP - _BOTTOM)

    def line(
        self, xs: Sequence[float], ys: Sequence[float], colour: int, name: str = "", *, steps: bool = False
    ) -> None:
        """A line through points; with ``steps`` level between them."""
        points: list[tuple[float, float]] = []
        for x, y in zip(xs, ys, strict=True):
            if steps and points:
                points.append((self._x(x), points[-1][1]))
            points.append((self._x(x), self._y(y)))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline class="line c{colour}" points="{path}"/>')
        if name:
            self._legend.append((name, f"c{colour}"))

    def points(self, xs: Sequence[float], ys: Sequence[float], colour: int, name: str = "") -> None:
        """A dot at each point."""
        self._parts += [
            f'<circle class="dot c{colour}" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="3"/>'
            for x, y in zip(xs, ys, strict=True)
        ]
        if name:
            self._legend.append((name, f"c{colour}"))

    def level(self, value: float, words: str) -> None:
        """A dashed line across, with words on it."""
        y = self._y(value)
        self._parts.append(f'<line class="level" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        self._parts.append(_words("note", WIDTH - _RIGHT, y - 4, words, "end"))

    def upright(self, value: float, words: str, row: int = 0) -> None:
        """A dashed line upwards, with words beside its top, in one of several rows."""
        x = self._x(value)
        anchor, beside = ("end", -4) if x > WIDTH * 0.7 else ("start", 4)
        self._parts.append(f'<line class="level" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
        self._parts.append(_words("note", x + beside, _TOP + 10 + 13 * row, words, anchor))

    def draw(self) -> str:
        """The picture; its title is read aloud in its place."""
        parts = [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self._title, quote=True)}">',
            f"<title>{escape(self._title)}</title>",
        ]
        for tick in self._up.ticks():
            y = self._y(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(_words("tick", _LEFT - 6, y + 4, short(tick), "end"))
        for tick in self._across.ticks():
            x = self._x(tick)
            at_end = x > WIDTH - 2 * _RIGHT  # where half of a long number would be outside
            parts.append(_words("tick", x, HEIGHT - _BOTTOM + 16, short(tick), "end" if at_end else "middle"))
        parts.append(_words("axis", (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, self._across.label, "middle"))
        parts.append(_words("axis", 4, 14, self._up.label))
        x = WIDTH - _RIGHT
        for name, colour in reversed(self._legend):
            parts.append(_words("legend", x, 14, name, "end"))
            x -= 8 * len(name) + 6
            parts.append(f'<rect class="key {colour}" x="{x - 6}" y="6" width="10" height="10"/>')
            x -= 18
        return "\n".join([*parts, *self._parts, "</svg>"])


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Lying bars, the name of each on its left and words on its right: (name, length, words), lengths of one unit."""
    height, name_width, words_width = 24 * len(rows) + 6, 190, 60
    most = max((length for _, length, _ in rows), default=0.0) or 1.0
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">',
        f"<title>{escape(title)}</title>",
    ]
    for number, (name, length, words) in enumerate(rows):
        y = 24 * number + 4
        wide = (WIDTH - name_width - words_width) * length / most
        parts.append(_words("tick", name_width - 8, y + 13, name[:26], "end"))
        parts.append(f'<rect class="bar" x="{name_width}" y="{y}" width="{max(wide, 1):.1f}" height="17"/>')
        parts.append(_words("tick", name_width + wide + 6, y + 13, words))
    return "\n".join([*parts, "</svg>"])
