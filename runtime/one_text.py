"""The text that an open bundle holds, token by token: begun, appended to, taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepress.finite import check_logits
from edgepress.runtime.generation.known_text import KnownText
from edgepress.runtime.sessions.session import check_tokens
from edgepress.whole import whole_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgepress.runtime.config import BundleConfig
    from edgepress.runtime.generation.choosing import Choosing
    from edgepress.runtime.sessions.session import Floats, Mark, Session
    from edgepress.text.tokenizer import Tokenizer


class OneText:
    """One text at a time, an :class:`~edgepress.runtime.generation.generation.OpenText`; two threads must not use it.

    ``changes`` counts the calls that changed that text, by which a generation notices that another one has begun;
    ``reused`` is how many tokens the last text that was begun had from the one before.
    """

    def __init__(self, config: BundleConfig, session: Session) -> None:
        self.config = config
        self.session = session
        self.changes = self.reused = 0
        self._known = KnownText(session)
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer, read when first used."""
        if self._tokenizer is None:
            from edgepress.text.tokenizer import read_tokenizer  # tokens alone need none

            self._tokenizer = read_tokenizer(self.config.bundle)
        return self._tokenizer

    @property
    def eos(self) -> frozenset[int]:
        """The tokens by which the model ends a text."""
        return self.config.eos

    @property
    def context(self) -> int:
        """The most tokens that the cache holds."""
        return self.session.context

    def reset(self) -> None:
        """Forget the text so far."""
        self.changes += 1
        self._known.forget()

    def chosen_by(self, choosing: Choosing) -> None:
        """Nothing is proposed here, so how tokens are chosen changes nothing."""

    def begin(self, tokens: Sequence[int], *, reuse: bool) -> Floats:
        """Make the text ``tokens``; return the logits after the last, (vocab,), valid until the next call.

        With ``reuse`` only what follows the beginning that it has in common with the text before is computed.

        Raises:
            InputError: as for :meth:`prefill`.

        """
        self.session.check_room(len(tokens), after=0)
        self.changes += 1
        if reuse:
            self.reused = self._known.go_to_common(tokens)
        else:
            self.reused = 0
            self._known.forget()
        logits = self.prefill(tokens[self.reused :])
        if reuse:
            self._known.keep()
        return logits

    def prefill(self, tokens: Sequence[int]) -> Floats:
        """Append tokens; return the logits after the last, (vocab,), valid until the next call.

        Raises:
            InputError: there are no tokens, one is not in the vocabulary, they do not fit in the context, or the logits
                are not finite.

        """
        checked = check_tokens(tokens, self.config.vocab_size)
        self.changes += 1
        logits: Floats = self.session.append(checked)[-1]
        self._known.tokens += checked.tolist()
        check_logits(logits, f"{self.config.bundle}, after {self.session.position} tokens")
        return logits

    def append(self, tokens: Sequence[int], first: int) -> Floats:
        """Append tokens; return the logits after each of ``tokens[first:]``, (rows, vocab), valid until the next call.

        Whether they are finite is for who uses a row to check: rows of tokens that are taken back say nothing.

        Raises:
            InputError: as for :meth:`prefill`.

        """
        checked = check_tokens(tokens, self.config.vocab_size)
        self.changes += 1
        rows = self.session.append(checked, first)
        self._known.tokens += checked.tolist()
        return rows

    def take_back(self, position: int, mark: Mark) -> None:
        """Take back all tokens after the first ``position``; ``mark`` helps where it was made there.

        Raises:
            InputError: as for :meth:`.session.Session.roll_back`.

        """
        self.changes += 1
        self._known.take_back(position, mark)

    def why_not_evict(self, recent: int, moves: int = 1) -> str:
        """Why tokens between the first and the last ``recent`` cannot be taken out of the text; "" where they can."""
        return self.session.why_not_evict(recent, moves)

    def evict(self, first: int, count: int) -> None:
        """Take ``count`` tokens after the ``first`` ones out of the text; what is kept of the others is moved.

        Raises:
            InputError: as for :meth:`.session.Session.evict`.

        """
        self.changes += 1
        self._known.evict(first, count)

    def expect(self, token: int) -> None:
        """Hear which token is going to be appended next, alone: texts side by side compute it with others."""
        self.session.expect(token)

    def settle(self) -> None:
        """Take back what was said of the next token: no more than the text that was asked for is held anyway."""
        self.session.expect(None)

    def decode(self, token: int) -> Floats:
        """Append one token; return the logits after it, (vocab,), valid until the next call.

        Raises:
            InputError: the token is not in the vocabulary, the context is full, or the logits are not finite.

        """
        most = self.config.vocab_size - 1
        checked = whole_number("the token", token, least=0, most=most, takes=f"the vocabulary has 0 to {most}")
        self.changes += 1
        logits: Floats = self.session.append(np.array([checked]))[-1]
        self._known.tokens.append(checked)
        check_logits(logits, f"{self.config.bundle}, after {self.session.position} tokens, the last {checked}")
        return logits
