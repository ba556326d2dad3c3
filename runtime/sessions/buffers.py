"""The memory of a session's states: allocated once, bound by name, and copied whole layers at a time.

States of one shape and type share one array, so that what is done to all of them is one copy, not one for each layer.
"""

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.rotations import KeyRotation
from edgepress.bundle.states import State
from edgepress.errors import InputError
from edgepress.runtime.sessions.moving import moved_back
from edgepress.runtime.sessions.windows import Window

if TYPE_CHECKING:
    from onnxruntime import OrtValue

Array = NDArray[Any]

_MOST_MOVES = 16  # of keys that are integers: docs/benchmarks.md, "Long texts"


@dataclass
class _Group:
    """States of one shape and type, and their memory: (states, 1, …); ``window`` is what it is for those that keep one.

    What is in it of a text is all of it where the size is fixed.
    """

    states: list[State]
    array: Array
    window: Window | None = None

    def __post_init__(self) -> None:
        state = self.states[0]
        if state.window is not None:
            self.window = Window(np.moveaxis(self.array, self._tokens, -2), state.window)

    @property
    def _tokens(self) -> int:
        """The axis of the memory that has entries for tokens."""
        return 1 + (self.states[0].token_axis or 0)

    def entries(self, start: int, stop: int) -> Array:
        """What belongs to the tokens from ``start`` to ``stop``, of states that grow."""
        if not self.states[0].grows:
            return self.array
        view: Array = self.array[(slice(None),) * self._tokens + (slice(start, stop),)]
        return view

    def held(self, tokens: int) -> Array:
        """What there is of a text of ``tokens`` tokens."""
        return self.entries(0, tokens) if self.window is None else self.window.held(tokens)

    def shape_of(self, tokens: int) -> tuple[int, ...]:
        """The shape of what there is of a text of ``tokens`` tokens, which may have more than there is room for."""
        if self.states[0].grows:
            return (len(self.states), *self.states[0].sizes(tokens))
        return tuple(self.held(tokens).shape)

    def evict(
        self, tokens: int, first: int, count: int, rotations: Mapping[str, KeyRotation], scales: Mapping[str, Array]
    ) -> None:
        """Take ``count`` tokens after the first ``first`` out of a text of ``tokens``, where they have entries.

        Keys that one of the ``rotations`` is for are rotated back, integers by their ``scales``; a state at a time, so
        that copies are small.
        """
        if not self.states[0].in_place:
            return
        rows = np.moveaxis(self.array, self._tokens, -2)  # (states, …, entries, width)
        moved = rows[..., first : tokens - count, :] if self.window is None else self.window.evict(tokens, first, count)
        for state, its, to in zip(self.states, rows, moved, strict=True):
            entries = its[..., first + count : tokens, :] if self.window is None else to
            rotation = rotations.get(state.name)
            scale = scales.get(state.name)
            to[...] = entries.copy() if rotation is None else moved_back(entries, rotation, count, scale)

    def put(self, array: Array, tokens: int, earliest: int) -> None:
        """Write what :meth:`held` gave of a text that has at least as many, or of a window just as many."""
        if self.window is not None:
            self.window.put(array, tokens, earliest)
            return
        self.entries(0, tokens)[...] = _Group(self.states, array).entries(0, tokens)


class StateMemory:
    """Memory for ``states``, with ``entries`` tokens in those that grow; all zeros at first.

    Pages that were never written cost no memory, so room for a long text is free until it is used.

    Raises:
        InputError: the system does not give so much memory.

    """

    def __init__(self, states: Sequence[State], entries: int, groups: list[_Group] | None = None) -> None:
        self.states, self.entries = tuple(states), entries
        self.in_place = all(state.in_place for state in states)
        self._groups = _grouped(states, entries) if groups is None else groups
        self._windows = [group.window for group in self._groups if group.window is not None]
        self._fixed = [group for group in self._groups if not group.states[0].in_place]

    def inputs(self) -> "Iterator[tuple[State, OrtValue]]":
        """Each state with its memory as a graph takes it; the memory must outlive the value."""
        return _values(self._groups)

    def clear(self) -> None:
        """Begin a text: states of fixed size are what they are before the first token, others need nothing."""
        for group in self._groups:
            if not group.states[0].in_place:
                group.array[...] = 0
        for window in self._windows:
            window.forget()

    def earliest(self, tokens: int, *, marked: bool = False) -> int:
        """The fewest tokens, besides none, that a text of ``tokens`` tokens can be taken back to.

        ``marked`` leaves out states of a fixed size: there is a copy of those.
        """
        if not self.in_place and not marked:
            return tokens
        return max((window.earliest for window in self._windows), default=0)

    def before_call(self, tokens: int, count: int) -> bool:
        """Keep what a call with ``count`` tokens after ``tokens`` will push out of windows.

        Return whether entries of the text before it are moved.
        """
        moved = [window for window in self._windows if window.pushes(tokens, count)]
        for window in moved:
            window.before_call(tokens, count)
        return bool(moved)

    def take_back(self, tokens: int, kept: int) -> None:
        """Make of a text of ``tokens`` tokens that of its first ``kept``, which are :meth:`earliest` or more."""
        for window in self._windows:
            window.take_back(tokens, kept)

    def entries_of(self, name: str, tokens: int) -> Array:
        """What a state has of a text of ``tokens`` tokens, as it lies in memory; KeyError where there is none such."""
        for group in self._groups:
            for state, held in zip(group.states, group.held(tokens), strict=True):
                if state.name == name:
                    view: Array = held
                    return view
        raise KeyError(name)

    def go_on_from(self, other: "StateMemory", tokens: int, shared: int) -> None:
        """Hold what ``other``, of the same states, does of a text of ``tokens`` tokens.

        Here is a text of as many, the first ``shared`` of which are the same: their entries are not copied. Or none is.
        """
        for group, its in zip(self._groups, other._groups, strict=True):
            if group.window is not None and its.window is not None:
                group.window.go_on_from(its.window, tokens, shared)
            else:
                group.entries(shared, tokens)[...] = its.entries(shared, tokens)

    def why_not_evict(
        self, rotations: Sequence[KeyRotation] | None, scales: Mapping[str, Array], recent: int, moves: int
    ) -> str:
        """Why tokens before the last ``recent`` cannot be taken out of a text, ``moves`` times; "" where they can."""
        if rotations is None:
            return (
                "nothing says how its keys are rotated (they are bound to the positions at which they were computed, "
                "an accelerator holds them, or the bundle is an older one)"
            )
        rotated = {name for rotation in rotations for name in rotation.states}
        integers = [state.name for state in self.states if state.name in rotated and state.type in {"int8", "uint8"}]
        if unknown := next((name for name in integers if name not in scales), None):
            return f"{unknown} are integers, and the graph does not say what they are multiplied by"
        if integers and moves > _MOST_MOVES:
            return (
                f"{integers[0]} are integers, which are rounded each time they move; a token would be moved {moves} "
                f"times, and {_MOST_MOVES} are measured to lose little: forget more at a time"
            )
        longest = max((window.window for window in self._windows), default=0)
        if longest > recent:
            return f"a window sees {longest} tokens, and only {recent} would stay behind what is forgotten"
        return ""

    def evict(
        self,
        tokens: int,
        first: int,
        count: int,
        rotations: Sequence[KeyRotation],
        scales: Mapping[str, Array],
    ) -> None:
        """Make of a text of ``tokens`` tokens that without the ``count`` after its ``first``.

        Those behind them stand as many positions earlier then. States of a fixed size stay as they are.
        """
        by_name = {name: rotation for rotation in rotations for name in rotation.states}
        for group in self._groups:
            group.evict(tokens, first, count, by_name, scales)

    def copy_fixed(self) -> tuple[Array, ...]:
        """A copy of the states of a fixed size, for :meth:`put_fixed`."""
        return tuple(group.array.copy() for group in self._fixed)

    def put_fixed(self, arrays: Sequence[Array]) -> None:
        """Write what :meth:`copy_fixed` gave."""
        for group, array in zip(self._fixed, arrays, strict=True):
            group.array[...] = array

    def copy(self, tokens: int) -> tuple[Array, ...]:
        """A copy of what a text of ``tokens`` tokens left, for :meth:`put`."""
        return tuple(group.held(tokens).copy() for group in self._groups)

    def check(self, arrays: Sequence[Array], tokens: int) -> None:
        """Raise an InputError unless ``arrays`` are what :meth:`copy` gives of a text of ``tokens`` tokens."""
        wanted = [(group.array.dtype, group.shape_of(tokens)) for group in self._groups]
        if [(array.dtype, array.shape) for array in arrays] != wanted:
            raise InputError("what is kept of the text has other types or shapes than the model's states; make it anew")

    def put(self, arrays: Sequence[Array], tokens: int, earliest: int) -> None:
        """Write what :meth:`copy` gave of the same states, for at least ``tokens`` tokens, or of windows for so many.

        That text could be taken back to ``earliest`` tokens.
        """
        for group, array in zip(self._groups, arrays, strict=True):
            group.put(array, tokens, earliest)


class TextsMemory:
    """Memory for ``count`` texts side by side, (states, texts, …), so that one call can go on with several of them.

    Raises:
        InputError: the system does not give so much memory.

    """

    def __init__(self, states: Sequence[State], entries: int, count: int) -> None:
        self._states, self._entries = tuple(states), entries
        self._groups = _grouped(states, entries, count)

    def text(self, number: int) -> StateMemory:
        """The memory of one text; it is the same memory."""
        alone = [_Group(group.states, group.array[:, number : number + 1]) for group in self._groups]
        return StateMemory(self._states, self._entries, alone)

    def inputs(self, first: int, stop: int) -> "Iterator[tuple[State, OrtValue]]":
        """Each state of the texts from ``first`` to ``stop`` as a graph takes it; the memory must outlive the value."""
        return _values([_Group(group.states, group.array[:, first:stop]) for group in self._groups])


class Results:
    """Memory for what a call gives back, before it is taken over into a :class:`StateMemory`.

    Of states that grow these are the entries of the call's own tokens, ``length`` of them. Where that is None the graph
    writes states in place where they can be, and only those of fixed size are here.
    """

    def __init__(self, memory: StateMemory, length: int | None) -> None:
        self._memory = memory
        states = [state for state in memory.states if length is not None or not state.in_place]
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


def _grouped(states: Iterable[State], entries: int, texts: int = 1) -> list[_Group]:
    groups: dict[tuple[tuple[int, ...], int | None, str, int | None], list[State]] = {}
    for state in states:
        key = (state.sizes(entries), state.token_axis, state.type, state.window)
        groups.setdefault(key, []).append(state)
    return [
        _Group(alike, untouched_memory((len(alike), texts, *sizes[1:]), np.dtype(kind), entries))
        for (sizes, _, kind, _), alike in groups.items()
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
