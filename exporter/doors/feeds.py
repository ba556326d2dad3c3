"""Feeds of a model: arrays for its inputs, of its example's sizes, of others, or of those that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.doors.traced import Feed
from edgepress.tasks.task import Axis

Shape = tuple[int, ...]
Axes = Mapping[str, Mapping[int, Axis]]
"""The free axes of each input, by their number."""


@dataclass(frozen=True, kw_only=True)
class Feeds:
    """Feeds like an example whose inputs have ``shapes``: ``draw(name, shape, generator)`` makes an input of any shape.

    ``first`` is the example itself, where it is not drawn. An axis has one size wherever its name is.
    """

    shapes: Mapping[str, Shape]
    axes: Axes
    draw: Callable[[str, Shape, np.random.Generator], NDArray[Any]]
    first: Feed | None = None

    def __call__(self, seed: int) -> Iterator[Feed]:
        """Without end: the example's sizes, then any up to twice those that axes allow."""
        generator = np.random.default_rng(seed)
        yield self._drawn(self.shapes, generator) if self.first is None else self.first
        while True:
            yield self._drawn(free_sizes(self.shapes, self.axes, generator), generator)

    def names(self) -> dict[str, Axis]:
        """Every free axis by its name."""
        return {axis.name: axis for axes in self.axes.values() for axis in axes.values()}

    def sizes(self) -> dict[str, int]:
        """The size of every free axis in the example."""
        return {axis.name: self.shapes[name][index] for name, axes in self.axes.items() for index, axis in axes.items()}

    def at(self, sizes: Mapping[str, int], seed: int = 0) -> Feed:
        """A feed whose free axes have these sizes; the others are as in the example."""
        shapes = {}
        for name, shape in self.shapes.items():
            free = self.axes.get(name, {})
            shapes[name] = tuple(
                sizes.get(free[index].name, size) if index in free else size for index, size in enumerate(shape)
            )
        return self._drawn(shapes, np.random.default_rng(seed))

    def within(self, axes: Axes, bounds: Mapping[str, Axis]) -> Feeds:
        """The same with free axes that are called and bounded otherwise."""
        found = {
            name: {index: bounds.get(axis.name, axis) for index, axis in free.items()} for name, free in axes.items()
        }
        return replace(self, axes=found)

    def _drawn(self, shapes: Mapping[str, Shape], generator: np.random.Generator) -> Feed:
        return {name: self.draw(name, shape, generator) for name, shape in shapes.items()}


def free_sizes(shapes: Mapping[str, Shape], axes: Axes, generator: np.random.Generator) -> dict[str, Shape]:
    """Shapes with other sizes where axes are free; an axis has one size wherever its name is."""
    sizes: dict[str, int] = {}
    found = {}
    for name, shape in shapes.items():
        other = list(shape)
        for index, axis in axes.get(name, {}).items():
            if axis.name not in sizes:
                least = -(-axis.least // axis.multiple)
                most = min(2 * shape[index], axis.most or 2 * shape[index]) // axis.multiple
                sizes[axis.name] = int(generator.integers(least, max(most, least) + 1)) * axis.multiple
            other[index] = sizes[axis.name]
        found[name] = tuple(other)
    return found


def like(example: NDArray[Any], shape: Shape, generator: np.random.Generator) -> NDArray[Any]:
    """An array of another shape whose values are in the range of the example's."""
    if example.dtype == np.bool_:
        return np.asarray(generator.random(shape) < example.mean())
    if np.issubdtype(example.dtype, np.integer):
        return np.asarray(generator.integers(example.min(), example.max(), shape, example.dtype, endpoint=True))
    return np.asarray(generator.normal(example.mean(), example.std(), shape), example.dtype)
