"""The memory of states that keep a window: what GroupQueryAttention leaves there, and how tokens are taken back.

With ``sliding_window_cache`` the operator keeps, in memory of ``rows`` entries, those of the last tokens from the first
entry on, the oldest first. How many follows from the tokens of the text alone (:func:`resident`), not from how they
were appended: when the memory is full, ``rows - window + 1`` of them, a step, are pushed out together and the others
move up. So the text of fewer tokens has another layout::

    after 6 tokens  0 1 2 3 4 5    6 rows, a window of 4, a step of 3
    after 7 tokens  3 4 5 6 - -    0 1 2 were pushed out; to take the 7th back they are needed again
    after 9 tokens  3 4 5 6 7 8    to take one or two back, entries stay where they are

What is pushed out is copied before, a step of entries, and put back when tokens are taken back: so many can be after
any call that is not much longer than the window, whose own tokens would be pushed out too. A token never sees further
back than the window, so entries before that may hold anything that is finite.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def resident(tokens: int, window: int, rows: int) -> int:
    """How many entries there are after ``tokens`` tokens: all, or between ``window`` and ``rows`` of the last."""
    step = rows - window + 1
    return tokens - step * -(-max(0, tokens - rows) // step)


@dataclass
class Window:
    """The entries of alike states, ``rows`` (…, rows, width), of a text that is told at each call.

    Args:
        rows: their memory.
        window: how many tokens are seen, the one that sees them included.

    """

    rows: Array
    window: int
    _pushed: Array = field(init=False)  # (…, step, width), what was pushed out last, the newest at the end
    _first: int = field(init=False, default=0)  # of the tokens whose entries there are, one after the other

    def __post_init__(self) -> None:
        self._pushed = np.zeros_like(self.rows[..., : self.step, :])

    @property
    def step(self) -> int:
        """How many entries are pushed out together."""
        return int(self.rows.shape[-2]) - self.window + 1

    @property
    def earliest(self) -> int:
        """The fewest tokens, besides none, that the text can be taken back to."""
        return self._first + self.window - 1 if self._first else 0

    def held(self, tokens: int) -> Array:
        """The entries of a text of ``tokens`` tokens."""
        view: Array = self.rows[..., : self._resident(tokens), :]
        return view

    def forget(self) -> None:
        """Begin another text."""
        self._first = 0

    def put(self, entries: Array, tokens: int, earliest: int) -> None:
        """Write what :meth:`held` gave of a text of ``tokens`` tokens that could be taken back to ``earliest``."""
        self.held(tokens)[...] = entries
        known = max(0, earliest - self.window + 1)
        self._first = max(known, tokens - self._resident(tokens))

    def go_on_from(self, other: "Window", tokens: int, shared: int) -> None:
        """Hold what ``other`` does of a text of ``tokens`` tokens; here is one of as many, or none if none is shared.

        The first ``shared`` tokens of the two are the same, and so are their entries.
        """
        held = self._resident(tokens)
        start = min(max(0, shared - (tokens - held)), held)
        self.rows[..., start:held, :] = other.rows[..., start:held, :]
        self._pushed[...] = other._pushed
        self._first = other._first

    def pushes(self, tokens: int, count: int) -> bool:
        """Whether a call with ``count`` tokens after ``tokens`` moves entries."""
        return self._resident(tokens + count) < self._resident(tokens) + count

    def before_call(self, tokens: int, count: int) -> None:
        """Copy what a call with ``count`` tokens after ``tokens`` is going to push out."""
        if not self.pushes(tokens, count):
            return
        held, after = self._resident(tokens), tokens + count - self._resident(tokens + count)
        out = after - (tokens - held)  # entries, a multiple of the step
        if out <= held:
            self._pushed[...] = self.rows[..., out - self.step : out, :]
        self._first = max(self._first, after - (self.step if out <= held else 0))

    def take_back(self, tokens: int, kept: int) -> None:
        """Lay a text of ``tokens`` tokens out as that of its first ``kept``, which are :attr:`earliest` or more."""
        held = self._resident(kept)
        before, after = tokens - self._resident(tokens), kept - held  # the tokens of the first entries
        up = before - after  # entries, a multiple of the step
        if up:
            stay = max(0, kept - before)
            self.rows[..., up : up + stay, :] = self.rows[..., :stay, :].copy()
            start, stop = up - self.step, min(up, held)
            self.rows[..., start:stop, :] = self._pushed[..., : stop - start, :]

    def evict(self, tokens: int, first: int, count: int) -> Array:
        """Lay a text of ``tokens`` tokens out as that without the ``count`` after its ``first``.

        Behind them are as many tokens as the window has, or more. Returns the entries that were there and still are:
        they stand ``count`` positions earlier now.
        """
        held, after = self._resident(tokens), self._resident(tokens - count)
        stay = min(held, after)
        self.rows[..., after - stay : after, :] = self.rows[..., held - stay : held, :].copy()
        self._first = max(first, self._first - count, tokens - count - stay)
        view: Array = self.rows[..., after - stay : after, :]
        return view

    def _resident(self, tokens: int) -> int:
        return resident(tokens, self.window, self.rows.shape[-2])
