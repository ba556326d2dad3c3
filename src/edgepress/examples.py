"""Example inputs of a model: made-up numbers of the types and shapes that it declares."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from edgepress.tasks.task import Edge

Feed = dict[str, NDArray[np.generic]]

_SIZES = (8, 16, 32, 64, 128, 224, 256, 512, 1024, 3, 1)  # that free axes are tried with
_TRIED = 3  # feeds that must run


def make_feeds(inputs: Sequence[Edge], size: int, seed: int = 0, rows: int | None = None) -> Iterator[Feed]:
    """Inputs without end: numbers of a normal distribution, and whole numbers of 0 and 1.

    Free axes have ``size``; those that come first in an input ``rows``, 1 and 2 in turn where that is None.
    """
    first = {str(edge.shape[0]) for edge in inputs if edge.shape and isinstance(edge.shape[0], str)}
    for number in count():
        random = np.random.default_rng([seed, number])
        sizes = dict.fromkeys(first, 1 + number % 2 if rows is None else rows)
        feed: Feed = {}
        for edge in inputs:
            shape = [axis if isinstance(axis, int) else sizes.get(axis, size) for axis in edge.shape]
            made = random.standard_normal(shape) if edge.type.startswith("float") else random.integers(0, 2, shape)
            feed[edge.name] = np.asarray(made, edge.type)
        yield feed


def find_size(run: Callable[[Feed], Mapping[str, object] | Sequence[object]], inputs: Sequence[Edge]) -> int | None:
    """A size of free axes with which ``run`` takes made-up inputs; None where it takes none that is tried."""
    for size in _SIZES:
        with suppress(Exception):  # onnxruntime's exceptions have no common type; the next size may do
            for feed in islice(make_feeds(inputs, size), _TRIED):
                run(feed)
            return size
    return None
