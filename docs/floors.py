"""The floors of the house, who uses whom, and docs/floors.svg, which shows it.

python docs/floors.py

A folder uses what stands below it and nothing above; ``FLOORS`` is the order, and ``tests/test_floors.py`` holds it.
Imports inside functions and under ``TYPE_CHECKING`` count. Needs grimp, which is in edgepress[test].
"""

from collections.abc import Iterator
from functools import cache
from html import escape
from pathlib import Path

import grimp

PICTURE = Path(__file__).with_suffix(".svg")
FLOORS = {  # from the lowest to the highest
    "edgepress": "what all share: files, schemas, manifest, text",
    "targets": "what a device can run, and why not",
    "runtime": "a bundle's tokens, and measurements",
    "exporter.demo": "the built-in model",
    "exporter.source": "what the user has: hub, checkpoint, config",
    "exporter.tokens": "tokenizers, whole and with fewer tokens",
    "exporter.arrays": "schemes, packing, ranges, sums, work side by side",
    "exporter.interpreter": "any ONNX graph computed in torch, with gradients",
    "exporter.model": "what a model is, and what it computes",
    "exporter.recipe": "what the user asks for",
    "exporter.streams": "text through a model, a layer at a time",
    "exporter.methods": "what rounds, prepares, repairs and shrinks",
    "exporter.plan": "what will be done to each tensor, and where it lies",
    "exporter.graph": "ONNX: built, rewritten, made static, in integers",
    "exporter.doors": "any model as a float32 graph, and what it is for",
    "exporter.bundle": "what is shipped: written and read back",
    "exporter.learn": "what has to see text: calibration, budgets, pruning",
    "exporter.decide": "everything that is known before a weight is read",
    "exporter.export": "the story",
    "commands": "the ways in: command line, tests of apps",
}
_NAMES = {"edgepress": "src/edgepress", "commands": "src/edgepress/commands", "exporter.export": "exporter/export.py"}
_WAYS_IN = ("commands", "cli", "__main__", "pytest_plugin", "testing")
_LEFT, _TOP, _CELL, _ROW, _RIGHT = 496, 120, 19, 24, 42
INK, GREY, LINE, PAPER = "#1f2430", "#5a6376", "#dfe3ea", "#ffffff"


@cache
def imports() -> dict[str, frozenset[str]]:
    """From each module of edgepress to those that it imports, wherever in its file it does."""
    graph = grimp.build_graph("edgepress", cache_dir=None)
    return {module: frozenset(graph.find_modules_directly_imported_by(module)) for module in sorted(graph.modules)}


def floor_of(module: str) -> str:
    """The entry of ``FLOORS`` on which a module stands."""
    first, *rest = module.split(".")[1:] or [""]
    if first in _WAYS_IN:
        return "commands"
    if first == "exporter":  # the package itself gives what the story does
        return f"exporter.{rest[0]}" if rest else "exporter.export"
    return first if first in ("targets", "runtime") else "edgepress"


def uses() -> set[tuple[str, str]]:
    """Which floor imports something of which other one."""
    found = {(floor_of(module), floor_of(other)) for module, others in imports().items() for other in others}
    return {(floor, other) for floor, other in found if floor != other}


def text(x: float, y: float, spoken: str, size: float, *, extra: str = "", fill: str = INK) -> str:
    """One line of words at ``x``, ``y``."""
    more = f" {extra}" if extra else ""
    return f'<text x="{x:g}" y="{y:g}" style="font-size: {size:g}px; fill: {fill}"{more}>{escape(spoken)}</text>'


def parts() -> Iterator[str]:
    """A row and a column for each floor, the highest first; a dot where the row's files import the column's."""
    floors, used = list(reversed(FLOORS)), uses()
    yield text(20, 30, "Who imports whom", 16)
    yield text(20, 54, "A dot: the row's files import the column's, somewhere in them.", 12, fill=GREY)
    yield text(20, 72, "None is left of the diagonal: no folder uses one above it.", 12, fill=GREY)
    for row, floor in enumerate(floors):
        y, name = _TOP + row * _ROW, _NAMES.get(floor, floor.replace(".", "/"))
        yield f'<path d="M20 {y} H{_LEFT + len(floors) * _CELL}" stroke="{LINE}"/>'
        yield text(20, y + 16, name, 12)
        yield text(176, y + 16, FLOORS[floor], 12, fill=GREY)
        x = _LEFT + row * _CELL
        yield f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_ROW}" fill="{LINE}"/>'
        turned = f'transform="rotate(-50 {x + 8} {_TOP - 8})"'
        yield text(x + 8, _TOP - 8, name.rpartition("/")[2], 11, extra=turned, fill=GREY)
        for column, other in enumerate(floors):
            if (floor, other) in used:
                x = _LEFT + column * _CELL + _CELL / 2
                yield f'<circle cx="{x:g}" cy="{y + _ROW // 2}" r="5" fill="{INK}"/>'


def draw() -> str:
    """The picture as SVG; the same bytes each time."""
    width, height = _LEFT + len(FLOORS) * _CELL + _RIGHT, _TOP + len(FLOORS) * _ROW + 20
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, Helvetica, Arial, sans-serif">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>', *parts(), "</svg>\n"])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
