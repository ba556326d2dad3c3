"""The picture of accuracy.py: what each way to store a model costs, at how many bits a weight.

Presets and peers have their names beside them; other recipes are pale points, whose names are in the tables.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import SIZES

_COLOURS = {"edgepress": "#c2410c", "onnxruntime-genai": "#1d4ed8", "llama.cpp": "#15803d"}
_MARKERS = {"edgepress": "o", "onnxruntime-genai": "s", "llama.cpp": "^"}

# In points: the width of a page, and one panel below the other.
_WIDTH, _PANEL, _GAP, _TOP, _LEFT, _RIGHT = 680.0, 330.0, 62.0, 34.0, 58.0, 10.0
_FONT = 8.0
_CHARACTER, _LINE = 0.58, 1.25  # a label's width a character and its height, in its font size: wider than most fonts
_MARKER = 3.5  # points around the middle of a marker


@dataclass(frozen=True)
class Box:
    """A rectangle in points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """Whether they share more than an edge."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def inside(self, other: "Box") -> bool:
        """Whether nothing of it is outside of ``other``."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.bottom >= other.bottom
            and self.top <= other.top
        )

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of it that is nearest to (x, y)."""
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)


Point = tuple[float, float]


def place_labels(points: Sequence[Point], labels: Sequence[str], bounds: Box) -> list[Box]:
    """A box for each label, as near to its point as there is room; points after the last label have none.

    No box lies on another or on a marker, or leaves ``bounds``. Lines from boxes to their points pass by other boxes
    where there is room for that.

    Raises:
        ValueError: there is no room for one of them.

    """
    markers = [Box(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y in points]
    placed: dict[int, Box] = {}
    lines: list[tuple[Point, Point]] = []
    for index in sorted(range(len(labels)), key=lambda i: (-points[i][1], points[i][0])):
        x, y = points[index]
        width = len(labels[index]) * _CHARACTER * _FONT
        free = [
            box
            for box in _candidates(x, y, width, _LINE * _FONT)
            if box.inside(bounds)
            and not any(box.overlaps(other) for other in itertools.chain(placed.values(), markers))
        ]
        if not free:
            raise ValueError(f"no room for the label {labels[index]!r}")
        clear = (
            box
            for box in free
            if not any(_crosses(box, other) for other in lines)
            and not any(_crosses(other, ((x, y), box.nearest(x, y))) for other in placed.values())
        )
        placed[index] = next(clear, free[0])
        lines.append(((x, y), placed[index].nearest(x, y)))
    return [placed[index] for index in range(len(labels))]


def _candidates(x: float, y: float, width: float, height: float) -> Iterator[Box]:
    """Boxes around a point, farther and farther away; to the right first."""
    for distance in (_MARKER + 1, *range(8, 400, 5)):
        for direction in sorted(range(24), key=lambda i: min(i, 24 - i)):
            angle = math.tau * direction / 24
            at, up = x + distance * math.cos(angle), y + distance * math.sin(angle)
            left = at if math.cos(angle) > -1e-9 else at - width
            yield Box(left, up - height / 2, left + width, up + height / 2)


def _crosses(box: Box, line: tuple[Point, Point]) -> bool:
    """Whether a line goes through a box, by points on it a little apart."""
    (x, y), (to_x, to_y) = line
    steps = max(1, math.ceil(math.hypot(to_x - x, to_y - y) / 1.5))
    return any(
        box.left < x + (to_x - x) * i / steps < box.right and box.bottom < y + (to_y - y) * i / steps < box.top
        for i in range(steps + 1)
    )


def draw(samples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write bits a weight against KL, one panel a model; the same samples give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "edgepress"
    mpl.rcParams["svg.fonttype"] = "none"
    models = list(dict.fromkeys(sample["model"] for sample in samples))
    height = _TOP + len(models) * (_PANEL + _GAP)
    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
    for row, model in enumerate(models):
        bottom = height - _TOP - (row + 1) * _PANEL - row * _GAP
        size = (_WIDTH - _LEFT - _RIGHT) / _WIDTH, _PANEL / height
        axes = figure.add_axes((_LEFT / _WIDTH, bottom / height, *size))
        shown = [sample for sample in samples if sample["model"] == model and sample["kl"] > 1e-6]  # not float32
        _draw_panel(axes, model, shown)
    figure.axes[0].legend(
        loc="upper right", fontsize=_FONT, ncols=len(_COLOURS) + 1, bbox_to_anchor=(1, 1.09), frameon=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def _draw_panel(axes: Any, model: str, shown: Sequence[Mapping[str, Any]]) -> None:
    """One model's points, with a label each."""
    recipes = [sample for sample in shown if "title" in sample]
    named = [sample for sample in shown if "title" not in sample]
    kinds = [(tool, tool, [s for s in named if s["tool"] == tool], 1.0) for tool in _COLOURS]
    for label, tool, points, strength in [*kinds, ("edgepress, other recipes", "edgepress", recipes, 0.3)]:
        bits, kl = [s["bits_per_weight"] for s in points], [s["kl"] for s in points]
        axes.plot(bits, kl, _MARKERS[tool], color=_COLOURS[tool], label=label, markersize=5, alpha=strength)
    axes.set(xlabel="bits a weight, as stored", ylabel="KL from float32, nats a token", yscale="log")
    axes.set(xlim=_spread((s["bits_per_weight"] for s in shown), 0.06, 0.12))
    axes.set(ylim=[math.exp(end) for end in _spread((math.log(s["kl"]) for s in shown), 0.06, 0.1)])
    axes.set_title(SIZES[model], loc="left", fontsize=10)
    axes.grid(visible=True, alpha=0.25)
    frame = axes.get_window_extent()  # in points: 72 to the inch
    bounds = Box(frame.x0 + 2, frame.y0 + 2, frame.x1 - 2, frame.y1 - 2)
    at = [tuple(axes.transData.transform((s["bits_per_weight"], s["kl"]))) for s in (*named, *recipes)]
    boxes = place_labels(at, [s["name"] for s in named], bounds)
    for sample, (x, y), box in zip(named, at, boxes, strict=False):  # the rest of the points have none
        colour = _COLOURS[sample["tool"]]
        to = box.nearest(x, y)
        if math.dist((x, y), to) > 2 * _MARKER:
            axes.plot([x, to[0]], [y, to[1]], color=colour, linewidth=0.6, alpha=0.8, transform=None)
        # At the side of the box that faces the point, whatever the viewer's font makes of its width.
        middle = ((box.left + box.right) / 2, "center")
        side, anchor = (box.left, "left") if box.left > x - 1 else (box.right, "right") if box.right < x + 1 else middle
        place = {"xycoords": "figure points", "ha": anchor, "va": "center"}
        axes.annotate(sample["name"], (side, (box.bottom + box.top) / 2), fontsize=_FONT, color=colour, **place)


def _spread(values: Iterable[float], before: float, after: float) -> tuple[float, float]:
    """The range of values with a margin, in shares of it."""
    found = list(values)
    span = max(found) - min(found)
    return min(found) - before * span, max(found) + after * span
