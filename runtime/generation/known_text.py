"""Which tokens a session's text is made of, so that another text goes on from what both begin with.

A follow-up in a conversation begins with everything that was said before. What the model keeps of that is taken back
to the last token that both have, or to a copy from before where states cannot be taken back, and only the rest is
computed.
"""

from __future__ import annotations

import logging
from itertools import takewhile
from typing import TYPE_CHECKING

from edgepress.runtime.sessions.session import Mark, Session, Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgepress.runtime.generation.prefix import Prefix

_log = logging.getLogger("edgepress.prefix")
_FORGETFUL = -1  # no token: what is kept of one that saw others which the text has no more, so that no text begins so
_KEPT = 2  # snapshots: of this turn's prompt and of the one before; each may take as much as the states do


class KnownText:
    """The tokens that ``session`` has computed, as long as nobody appends to it behind this one's back."""

    def __init__(self, session: Session) -> None:
        self.tokens: list[int] = []
        self._session = session
        self._snapshots: list[tuple[list[int], Snapshot]] = []
        self._prefixes: list[Prefix] = []

    def hold(self, prefix: Prefix) -> None:
        """Let texts go on from a prefix, as long as its file does not change."""
        self._prefixes.append(prefix)

    def forget(self) -> None:
        """Begin a new text; snapshots stay, as the next one may begin as an earlier one did."""
        self.tokens.clear()
        self._session.reset()

    def keep(self) -> None:
        """Copy what the model keeps now, where it could not be taken back to later."""
        if all(state.grows for state in self._session.states) or not self._is_known:
            return
        self._snapshots.append((self.tokens.copy(), self._session.snapshot()))
        del self._snapshots[:-_KEPT]

    def take_back(self, position: int, mark: Mark) -> None:
        """Take back all tokens after the first ``position``, see :meth:`.session.Session.roll_back`."""
        self._session.roll_back(position, mark)
        del self.tokens[position:]

    def evict(self, first: int, count: int) -> None:
        """Take ``count`` tokens after the ``first`` ones out, see :meth:`.session.Session.evict`."""
        self._session.evict(first, count)
        self.tokens[first:] = [_FORGETFUL] * (len(self.tokens) - first - count)

    def go_to_common(self, wanted: Sequence[int]) -> int:
        """Leave in the session the longest beginning of ``wanted`` that it has or a snapshot has; return its length.

        At least one token of ``wanted`` is left to be computed, since logits are those after a token.
        """
        if not self._is_known:
            self.forget()
        shared = min(_shared(self.tokens, wanted), len(wanted) - 1)
        position = len(self.tokens)
        kept = shared if shared == position or shared >= max(self._session.earliest, 1) else 0
        found = [(_usable(tokens, snapshot, wanted), snapshot) for tokens, snapshot in self._snapshots]
        found += [
            (_usable(prefix.tokens, prefix.snapshot, wanted), prefix.snapshot) for prefix in self._prefixes_that_hold()
        ]
        best, snapshot = max(found, key=lambda one: one[0], default=(0, None))
        if snapshot is not None and best > kept:
            self._session.restore(snapshot)
            kept = best if best == snapshot.position or best >= max(self._session.earliest, 1) else 0
        if kept:
            self._session.roll_back(kept)
        else:
            self._session.reset()
        self.tokens = list(wanted[:kept])
        return kept

    def _prefixes_that_hold(self) -> list[Prefix]:
        """The prefixes whose files are as they were; others are let go, with a warning."""
        for prefix in self._prefixes:
            if not prefix.is_unchanged():
                _log.warning("%s has changed or was removed, and is not used any more", prefix.path)
        self._prefixes = [prefix for prefix in self._prefixes if prefix.is_unchanged()]
        return self._prefixes

    @property
    def _is_known(self) -> bool:
        return len(self.tokens) == self._session.position


def _usable(tokens: Sequence[int], snapshot: Snapshot, wanted: Sequence[int]) -> int:
    """With how many tokens of ``wanted`` a text could go on from a snapshot of ``tokens``; one is left to compute."""
    shared = min(_shared(tokens, wanted), len(wanted) - 1)
    return shared if shared == snapshot.position or shared >= max(snapshot.earliest, 1) else 0


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many tokens both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
