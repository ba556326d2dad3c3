"""Which sizes the free axes of a traced graph may have: those at which it is the model.

``torch.export`` runs a module once, on sizes of two and more. Where the code asks for a size, as ``if length > 512``
does, it goes the example's way and notes what it took for granted (a guard); that sizes are not 1 it takes for granted
without a note. So the graph is held against the module where a guard does not hold, and at the smallest sizes. Many
guards are harmless: the way not taken computes the same. What is left is the range of an axis, which the bundle says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from math import gcd
from typing import TYPE_CHECKING, Any

from edgepress.errors import InputError
from edgepress.exporter.doors.comparing.agreement import farthest
from edgepress.exporter.doors.feeds import Axes, Feeds
from edgepress.exporter.doors.traced import TOLERANCE, Feed
from edgepress.sessions import open_on_cpu
from edgepress.tasks.task import Axis, Task

if TYPE_CHECKING:
    from pathlib import Path

_DENSE = 2  # times the example's size: every size up to there is looked at
_LARGEST = 16  # times the example's size: no larger feeds are computed
_FURTHEST = 1 << 20  # up to which it is asked whether a guard holds
_POINTS = 3  # at which a guard that does not hold is held against the module


class AxesFixedError(InputError):
    """The code of a module makes an axis that should be free a number."""


class ValuesDecideError(InputError):
    """The code of a module decides by values, or by sizes that it would know if axes were not free."""


@dataclass(frozen=True)
class Condition:
    """What the trace took for granted: a relation of torch's symbols, each the size of an axis over its multiple."""

    relation: Any  # sympy's, which has no types
    axes: Mapping[str, Axis]  # by symbol

    def names(self) -> set[str]:
        """The axes that it is about."""
        return {self.axes[str(symbol)].name for symbol in self.relation.free_symbols}

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether it does where axes have these sizes."""
        import sympy

        found = {symbol: self.axes[str(symbol)] for symbol in self.relation.free_symbols}
        values = {symbol: sympy.Integer(sizes[axis.name] // axis.multiple) for symbol, axis in found.items()}
        try:
            return bool(self.relation.xreplace(values))
        except (ZeroDivisionError, TypeError):  # of a quotient that is none there
            return False

    def __str__(self) -> str:
        import sympy

        shown = {
            symbol: sympy.Symbol(f"{axis.name}/{axis.multiple}" if axis.multiple > 1 else axis.name)
            for symbol, axis in ((one, self.axes[str(one)]) for one in self.relation.free_symbols)
        }
        return str(self.relation.xreplace(shown))


@dataclass(frozen=True)
class Graph:
    """A graph that was traced: its file, its edges, the free axes of its inputs, and what was taken for granted."""

    file: Path
    task: Task
    axes: Axes
    conditions: Sequence[Condition]


def bounded(graph: Graph, compute: Callable[[Feed], Feed], feeds: Feeds, where: str) -> tuple[Task, Feeds]:
    """The task with what is known of each axis, and feeds within that.

    Raises:
        AxesFixedError: the graph is right at sizes only that are no range, or for no single example.

    """
    trials = _Trials(graph, compute, feeds.within(graph.axes, {}))
    if not trials.right({}):  # which is said where graphs are held against their models
        return graph.task, trials.feeds
    alone = [one for one in graph.conditions if len(one.names()) == 1]
    bounds: dict[str, Axis] = {}
    for axis in trials.feeds.names().values():
        bounds[axis.name] = _bound(axis, trials, [one for one in alone if one.names() == {axis.name}], where)
        if bounds[axis.name].least > axis.multiple and _is_batch(axis.name, graph.axes):
            raise AxesFixedError(
                f"{where} cannot leave {axis.name} free: where it is {axis.multiple}, its graph does not compute what "
                "the module computes. Leave that axis out of `axes`, or give an example of one"
            )
    for condition in graph.conditions:
        _check_several(condition, bounds, trials, where)
    said = tuple(axis for axis in bounds.values() if (axis.multiple, axis.least, axis.most) != (1, 1, None))
    called = {axis.name: edge for axis, edge in _on_edges(graph)}
    axes = tuple(replace(axis, name=called[axis.name]) for axis in said)
    return replace(graph.task, axes=axes or None), feeds.within(graph.axes, bounds)


def _on_edges(graph: Graph) -> list[tuple[Axis, str]]:
    """Each free axis with what the edges call it: ``2*height`` where sizes are a multiple."""
    return [
        (axis, str(edge.shape[index])) for edge in graph.task.inputs for index, axis in graph.axes[edge.name].items()
    ]


def _is_batch(name: str, axes: Axes) -> bool:
    """Whether it is the first axis of every input."""
    return all(0 in free and free[0].name == name for free in axes.values())


@dataclass(frozen=True)
class _Trials:
    """The graph beside the module at any sizes."""

    graph: Graph
    compute: Callable[[Feed], Feed]
    feeds: Feeds
    known: dict[tuple[tuple[str, int], ...], bool] = field(default_factory=dict)

    @cached_property
    def session(self) -> Any:
        return open_on_cpu(self.graph.file)

    @cached_property
    def example(self) -> dict[str, int]:
        return self.feeds.sizes()

    def right(self, sizes: Mapping[str, int]) -> bool:
        """Whether both compute the same where axes have these sizes, the others the example's. Neither may fail."""
        key = tuple(sorted({**self.example, **sizes}.items()))
        if key not in self.known:
            self.known[key] = self._is_right(self.feeds.at(dict(key)))
        return self.known[key]

    def can_try(self, sizes: Mapping[str, int]) -> bool:
        """Whether feeds of that size are small enough to be computed."""
        return all(size <= _LARGEST * self.example[name] for name, size in sizes.items())

    def _is_right(self, feed: Feed) -> bool:
        names = [edge.name for edge in self.graph.task.outputs]
        try:
            expected = self.compute(feed)
            found = dict(zip(names, self.session.run(names, dict(feed)), strict=True))
        except Exception:  # a size that the module or the kernels do not take; their exceptions have no common type
            return False
        most = 10 * TOLERANCE  # of one feed, whose largest value may be small
        return farthest(found, expected, self.graph.task.name, most)[1] <= most


def _bound(axis: Axis, trials: _Trials, conditions: Sequence[Condition], where: str) -> Axis:
    """The range of sizes that an axis may have, the others having the example's."""

    def holds(size: int) -> bool:
        return all(one.holds({axis.name: size}) for one in conditions)

    sizes = _candidates(axis, trials.example[axis.name], conditions)
    held = [size for size in sizes if holds(size)]  # the example's is one
    most, beyond = axis.most, [size for size in sizes if size > held[-1]]
    if beyond and not _harmless(axis.name, beyond, trials):
        most = _boundary(axis, held[-1], beyond[0], holds)
    gaps = [size for size in sizes if held[0] < size < held[-1] and not holds(size)]
    if gaps and not _harmless(axis.name, gaps, trials):
        axis = replace(axis, multiple=gcd(*held))
        if any(size % axis.multiple == 0 for size in gaps):
            failing = next(one for one in conditions if any(not one.holds({axis.name: size}) for size in gaps))
            raise AxesFixedError(
                f"{where} cannot leave {axis.name} free: its graph computes what the module computes only where "
                f"{failing}. Leave that axis out of `axes`, or name it as (NAME, MULTIPLE) where its size must be a "
                "multiple of a number"
            )
    least = _least(axis, [size for size in sizes if size % axis.multiple == 0], trials)
    return replace(axis, least=least, most=most)


def _candidates(axis: Axis, example: int, conditions: Sequence[Condition]) -> list[int]:
    """Sizes that are looked at: all small ones, those near numbers that conditions name, and powers of two."""
    numbers = {abs(int(number)) for one in conditions for number in _numbers(one.relation)}
    near = {number * axis.multiple + off for number in numbers for off in (-axis.multiple, 0, axis.multiple)}
    powers = {(1 << power) // axis.multiple * axis.multiple for power in range(_FURTHEST.bit_length())}
    dense = range(axis.multiple, _DENSE * example + 1, axis.multiple)
    return sorted(size for size in {*dense, *near, *powers} if 1 <= size <= (axis.most or _FURTHEST))


def _numbers(relation: Any) -> set[Any]:
    import sympy

    return {number for number in relation.atoms(sympy.Integer) if abs(number) < _FURTHEST}


def _least(axis: Axis, sizes: Sequence[int], trials: _Trials) -> int:
    """The smallest size at which the graph is right; above it, it is taken to be right up to the example's."""
    below = [size for size in sizes if size <= trials.example[axis.name]]
    low, high = 0, len(below) - 1  # the last one is the example's, which is right
    if trials.right({axis.name: below[0]}):
        return below[0]
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if trials.right({axis.name: below[middle]}) else (middle, high)
    return below[high]


def _harmless(name: str, sizes: Sequence[int], trials: _Trials) -> bool:
    """Whether the graph is right at the first, the second and the last of these sizes that are small enough to try."""
    tried = [size for size in sizes if trials.can_try({name: size})]
    chosen = [*tried[: _POINTS - 1], *tried[-1:]]
    return bool(tried) and all(trials.right({name: size}) for size in chosen)


def _boundary(axis: Axis, low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The largest size at which conditions hold, between one at which they do and one at which they do not."""
    while low + axis.multiple < high:
        middle = (low + high) // 2 // axis.multiple * axis.multiple
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _check_several(condition: Condition, bounds: Mapping[str, Axis], trials: _Trials, where: str) -> None:
    """Raise AxesFixedError where a condition on several axes fails within their bounds and the graph is wrong there."""
    names = sorted(condition.names())
    if len(names) < 2:
        return
    choices = [
        sorted(
            size
            for size in {bounds[name].least, 2, 3, trials.example[name], 2 * trials.example[name]}
            if bounds[name].allows(size)
        )
        for name in names
    ]
    points = [dict(zip(names, sizes, strict=True)) for sizes in product(*choices)]
    failing = [point for point in points if not condition.holds(point)]
    for point in [*failing[: _POINTS - 1], *failing[-1:]]:
        if not trials.right(point):
            shown = " and ".join(f"{name} is {size}" for name, size in point.items())
            raise AxesFixedError(
                f"{where} cannot leave {' and '.join(names)} free: its graph computes what the module computes only "
                f"where {condition}, and not where {shown}. Leave one of them out of `axes`"
            )
