"""The memory of a session's states: allocated once, bound by name, and copied whole layers at a time.

States of one shape and type share one array, so that what is done to all of them is one copy, not one for each layer.
"""

import math
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.states import State

if TYPE_CHECKING:
    from onnxruntime import OrtValue

Array = NDArray[Any]


@dataclass
class _Group:
    """States of one shape and type, and their memory: (states, 1, …)."""

    states: list[State]
    array: Array

    def entries(self, start: int, stop: int) -> Array:
        """What belongs to the tokens from ``start`` to ``stop``; all of it where the size is fixed."""
        axis = self.states[0].past_axis
        if axis is None:
            return self.array
        view: Array = self.array[(slice(None),) * (axis + 1) + (slice(start, stop),)]
        return view


class StateMemory:
    """Memory for ``states``, with ``entries`` tokens in those that grow; all zeros at first.

    Pages that were never written cost no memory, so room for a long text is free until it is used.

    Raises:
        InputError: the system does not give so much memory.

    """

    def __init__(self, states: Sequence[State], entries: int) -> None:
        self.states, self.entries = tuple(states), entries
        self.grows_only = all(state.grows for state in states)
        self._groups = _grouped(states, entries)

    def inputs(self) -> "Iterator[tuple[State, OrtValue]]":
        """Each state with its memory as a graph takes it; the memory must outlive the value."""
        return _values(self._groups)

    def clear(self) -> None:
        """Make states of fixed size what they are before the first token; others need nothing."""
        for group in self._groups:
            if not group.states[0].grows:
                group.array[...] = 0

    def copy(self, tokens: int) -> tuple[Array, ...]:
        """A copy of what the first ``tokens`` tokens left, for :meth:`put`."""
        return tuple(group.entries(0, tokens).copy() for group in self._groups)

    def put(self, arrays: Sequence[Array], tokens: int) -> None:
        """Write what :meth:`copy` gave of the same states, for at least ``tokens`` tokens."""
        for group, array in zip(self._groups, arrays, strict=True):
            place = group.entries(0, tokens)
            place[...] = _Group(group.states, array).entries(0, tokens)


class Results:
    """Memory for what a call gives back, before it is taken over into a :class:`StateMemory`.

    Of states that grow these are the entries of the call's own tokens, ``length`` of them. Where that is None the graph
    writes such states in place, and only those of fixed size are here.
    """

    def __init__(self, memory: StateMemory, length: int | None) -> None:
        self._memory = memory
        states = [state for state in memory.states if length is not None or not state.grows]
        self._groups = _grouped(states, length or 0)
        targets = {tuple(group.states): group for group in memory._groups}
        self._targets = [targets[tuple(group.states)] for group in self._groups]

    def outputs(self) -> "Iterator[tuple[State, OrtValue]]":
        """Each state with the memory of its output as a graph takes it."""
        return _values(self._groups)

    def take(self, position: int, count: int) -> None:
        """Take over what a call gave of ``count`` tokens that come after ``position``; those without room are left."""
        count = min(count, self._memory.entries - position)
        for group, target in zip(self._groups, self._targets, strict=True):
            place = target.entries(position, position + count)
            place[...] = group.entries(0, count)


def _grouped(states: Iterable[State], entries: int) -> list[_Group]:
    groups: dict[tuple[tuple[int, ...], int | None, str], list[State]] = {}
    for state in states:
        groups.setdefault((state.sizes(entries), state.past_axis, state.type), []).append(state)
    return [
        _Group(alike, untouched_memory((len(alike), *sizes), np.dtype(kind), entries))
        for (sizes, _, kind), alike in groups.items()
    ]


def _values(groups: list[_Group]) -> "Iterator[tuple[State, OrtValue]]":
    for group in groups:
        for state, array in zip(group.states, group.array, strict=True):
            yield state, to_value(array)


def to_value(array: Array) -> "OrtValue":
    """An array as onnxruntime takes it: the same memory, which must outlive the value."""
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def untouched_memory(shape: tuple[int, ...], kind: np.dtype[Any], tokens: int) -> Array:
    """An array of zeros whose pages the system provides as they are written; ``tokens`` is for the message.

    numpy would ask for huge pages (MADV_HUGEPAGE), of which the first written byte of each head takes 2 MiB.

    Raises:
        InputError: the system does not give so much memory.

    """
    size = math.prod(shape) * kind.itemsize
    try:
        if hasattr(mmap, "MAP_ANONYMOUS"):
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:  # Windows
            memory = mmap.mmap(-1, size)
    except (OSError, OverflowError, ValueError) as error:
        raise InputError(
            f"what the model keeps of {tokens} tokens takes {size / 1e6:.0f} MB, more than this system gives; "
            "ask for a shorter context"
        ) from error
    return np.frombuffer(memory, kind).reshape(shape)
