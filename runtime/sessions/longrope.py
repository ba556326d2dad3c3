"""longrope: a model with one table of rotary frequencies for short texts and another one for long texts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


@dataclass
class Longrope:
    """Which of the two tables the graph reads: the long one for texts of more than ``limit`` tokens.

    The graph compares the total length of a call with ``value``; for the pieces of one long text that is 0, so that
    all of them use the table that one call for the whole of it would. Texts over one open graph share ``value``, which
    each call writes anew; ``is_long`` says which table rotated the keys of this one. ``text`` holds the tokens so far:
    when a text grows past the limit, keys that were rotated by the other table are of no use, and all of it is computed
    again, as in the reference implementation.
    """

    value: Tokens
    limit: int
    text: Tokens
    is_long: bool = False

    @classmethod
    def for_texts(cls, limit: int, context: int, value: Tokens | None = None) -> "Longrope":
        """For texts of at most ``context`` tokens, the short table chosen; ``value`` is what a graph reads."""
        return cls(np.array(limit, np.int64) if value is None else value, limit, np.zeros(context, np.int64))

    def add(self, tokens: Tokens, position: int, total: int | None) -> bool:
        """Take in ``tokens`` after ``position`` others and choose the table for a text of ``total``, or of so many.

        Return whether the tokens before them were computed with the other table.
        """
        stop = position + tokens.size
        self.text[position:stop] = tokens
        was_long, self.is_long = self.is_long, max(stop, total or 0) > self.limit
        self.value[...] = 0 if self.is_long else self.limit
        return position > 0 and self.is_long != was_long
