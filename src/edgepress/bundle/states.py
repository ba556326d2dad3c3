"""What a model carries from one call to the next, as data: its states.

A graph reads each state as an input and gives it back as an output. The exporter lists the states of what it exports,
the manifest keeps that list, and the runtime allocates, binds, copies and rolls back what is listed, whatever it is: a
new kind of layer needs no code there.

The description of a layer lists its states; layer ``3`` of a decoder has, for example::

    State("layers.3.key", "past_key_values.3.key", "present.3.key", ("batch", 2, "past", 64), "float32", "key-value")
    State("layers.3.conv", "past_conv.3", "present_conv.3", ("batch", 512, 3), "float32", "convolution")

and who writes the graph declares the input with :attr:`State.input_shape` and the output with
:attr:`State.output_shape`.

Only the standard library is used here: the exporter, the runtime and the manifest share it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Axis = Literal["batch", "past", "window", "source"]
StateType = Literal["float32", "float16", "int8", "uint8"]
StateKind = Literal["key-value", "window", "recurrent", "convolution", "encoded"]

_BYTES: dict[str, int] = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}
_BATCH, _PAST, _WINDOW, _SOURCE = get_args(Axis)
_LONGEST_NAME = 200  # characters
_LARGEST = 1 << 24  # of an axis: as many tokens as a context may have
# Elements for each token, or of a state whose size is fixed: of one state, and of all (the largest hybrids have 2²⁸).
_MOST_ELEMENTS, _MOST_IN_ALL = 1 << 26, 1 << 30
_MOST_AXES = 8
_MOST_STATES = 1 << 16
WINDOW_SLACK = 16
"""Entries that the memory of a window has beyond it. So many tokens and one are pushed out together: with fewer slack
they are moved up more often, with more of it the kernel looks at more of them (docs/benchmarks.md)."""


@dataclass(frozen=True)
class State:
    """One state: a tensor that a call of the graph reads (``input``) and the same tensor after it (``output``).

    ``shape`` names the axis ``batch``, the first one, and in a state with entries for tokens the axis of those:
    ``past``, one for each token so far, or ``window``. After a call of n tokens ``past`` is n longer; all other axes
    are numbers, and stay as they are. ``kind`` is

    - ``key-value``: keys or values of attention. It grows: entries of earlier tokens never change, so the runtime gives
      input and output the same memory, and taking back tokens is to forget the last entries
    - ``window``: keys or values of attention that sees ``window`` tokens, itself included. Entries of the last tokens
      only, the oldest first, as GroupQueryAttention's ``sliding_window_cache`` keeps them, in memory of
      :attr:`rows` entries that input and output share. What was pushed out of it cannot be taken back
    - ``recurrent``: a summary of all tokens so far. Its size is fixed
    - ``convolution``: the last inputs of a causal convolution. Its size is fixed
    - ``encoded``: keys or values that an encoder gives, under the name ``output``, and the decoder's graph only reads:
      no call changes them. There is one for all texts, (1, …), with an entry for each position of the ``source``, or
      for as many as the encoder always has

    A state of fixed size is all zeros before the first token and written anew by each call: to take tokens back needs
    a copy from before them.

    Raises:
        ValueError: a name, the shape, the type or the kind is not as above.

    """

    name: str
    input: str
    output: str
    shape: tuple[int | Axis, ...]
    type: StateType
    kind: StateKind
    window: int | None = None

    def __post_init__(self) -> None:
        for name in (self.name, self.input, self.output):
            if not 0 < len(name) <= _LONGEST_NAME:
                raise ValueError(f"a state's names have 1 to {_LONGEST_NAME} characters, and one has {len(name)}")
        if self.type not in _BYTES or self.kind not in get_args(StateKind):
            raise ValueError(
                f"state {self.name} has the type {self.type!r} and the kind {self.kind!r}; types are "
                f"{', '.join(_BYTES)}, kinds {', '.join(get_args(StateKind))}"
            )
        if self.input == self.output:
            raise ValueError(f"input and output of state {self.name} have one name, {self.input}; a graph needs two")
        sizes = [size for size in self.shape if isinstance(size, int)]
        named = [axis for axis in self.shape if isinstance(axis, str)]
        first, wanted = _BATCH, [_BATCH, *([self._tokens_axis] if self._tokens_axis else [])]
        if self.kind == "encoded":
            first, wanted = 1, [_SOURCE] if _SOURCE in named else []
        if named != wanted or self.shape[0] != first or len(self.shape) > _MOST_AXES:
            others = " and one other ".join(map(str, dict.fromkeys([first, *wanted])))
            raise ValueError(
                f"state {self.name} has the shape {self.shape}; a {self.kind} state has at most {_MOST_AXES} axes, the "
                f"first of them {others}, the rest numbers"
            )
        if any(not 0 < size <= _LARGEST for size in sizes) or math.prod(sizes) > _MOST_ELEMENTS:
            raise ValueError(
                f"state {self.name} has the shape {self.shape}; an axis is 1 to {_LARGEST:,} long, and all together "
                f"have at most {_MOST_ELEMENTS:,} elements a token"
            )
        if not (0 < (self.window or 0) <= _LARGEST if self.kind == "window" else self.window is None):
            raise ValueError(
                f"state {self.name} has the kind {self.kind} and a window of {self.window} tokens; a state of the kind "
                f"window has one of 1 to {_LARGEST:,}, and no other has one"
            )

    @property
    def grows(self) -> bool:
        """Whether it has an entry for each token, so that tokens can be taken back without a copy."""
        return self.kind == "key-value"

    @property
    def in_place(self) -> bool:
        """Whether a call writes it where it lies: input and output are the same memory."""
        return self._tokens_axis is not None

    @property
    def rows(self) -> int:
        """Entries that the memory of a window has."""
        return (self.window or 0) + WINDOW_SLACK

    @property
    def _tokens_axis(self) -> Axis | None:
        """The axis that has entries for tokens."""
        axes: dict[str, Axis] = {"key-value": _PAST, "window": _WINDOW}
        return axes.get(self.kind)

    @property
    def input_shape(self) -> tuple[int | str, ...]:
        """The shape before a call; windows of other lengths have another axis."""
        return tuple(f"window_{self.window}" if axis == _WINDOW else axis for axis in self.shape)

    @property
    def output_shape(self) -> tuple[int | str, ...]:
        """The shape after a call: where ``past`` was, ``total``."""
        return tuple("total" if axis == _PAST else axis for axis in self.input_shape)

    @property
    def token_axis(self) -> int | None:
        """Which axis has entries for tokens; None when the size is fixed."""
        return None if self._tokens_axis is None else self.shape.index(self._tokens_axis)

    def sizes(self, tokens: int) -> tuple[int, ...]:
        """The shape for one text of ``tokens`` tokens, or of what is encoded of a source of so many positions."""
        named = {_BATCH: 1, _PAST: tokens, _WINDOW: self.rows, _SOURCE: tokens}
        return tuple(named[axis] if isinstance(axis, str) else axis for axis in self.shape)

    @property
    def elements(self) -> int:
        """Elements for each token, or all of a state of fixed size."""
        return math.prod(size for size in self.shape if isinstance(size, int))

    def bytes_at(self, tokens: int) -> int:
        """Bytes that it takes for one text of ``tokens`` tokens.

        Beside the memory of a window there are the entries that it pushed out last (runtime/sessions/windows.py).
        """
        most = tokens if self.window is None else min(tokens, self.rows + WINDOW_SLACK + 1)
        return self.elements * (most if self.in_place or _SOURCE in self.shape else 1) * _BYTES[self.type]


def state_bytes(states: Iterable[State], tokens: int) -> int:
    """Bytes that all states take for one text of ``tokens`` tokens."""
    return sum(state.bytes_at(tokens) for state in states)


def check_states(states: Sequence[State]) -> None:
    """Raise a ValueError when two states have a name in common, or there are more than any model has."""
    if len(states) > _MOST_STATES:
        raise ValueError(f"there are {len(states):,} states, more than the {_MOST_STATES:,} that are read")
    elements = sum(state.elements for state in states)
    if elements > _MOST_IN_ALL:
        raise ValueError(f"they have {elements:,} elements together, more than the {_MOST_IN_ALL:,} that are read")
    for what in ("name", "input", "output"):
        seen: set[str] = set()
        for name in (getattr(state, what) for state in states):
            if name in seen:
                raise ValueError(f"two states have the {what} {name}; each needs its own")
            seen.add(name)
