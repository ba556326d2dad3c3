"""What a model's final norm gives of each token of a text, kept by position for what predicts a token further."""

import numpy as np
from numpy.typing import NDArray

from edgepress.runtime.sessions.buffers import untouched_memory


class HiddenRows:
    """Rows (context, hidden) of a text: those from ``first`` on that were computed are its own.

    A row is written by each call that computes its token. Tokens that are taken back leave theirs, so that of a step
    that was right in part the right ones are there, though the model computes their tokens again.
    """

    def __init__(self, context: int, width: int, position: int) -> None:
        self.rows: NDArray[np.float32] = untouched_memory((context, width), np.dtype(np.float32), context)
        self.first = position  # rows of the text so far were not kept

    def taken_back(self, position: int) -> None:
        """The text has ``position`` tokens: what comes after them is computed anew."""
        self.first = min(self.first, position)

    def evict(self, position: int, first: int, count: int) -> None:
        """Of a text of ``position`` tokens ``count`` after the ``first`` ones are out: rows are moved as states are."""
        self.rows[first : position - count] = self.rows[first + count : position]
        self.first = min(self.first, max(first, self.first - count))

    def replaced(self, position: int) -> None:
        """The text is another one, of ``position`` tokens that were computed elsewhere."""
        self.first = position
