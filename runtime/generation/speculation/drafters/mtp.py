"""A model's own layer for multi-token prediction (DeepSeek-AI 2024, DeepSeek-V3, section 2.2).

It reads token i + 1 together with what the model's final norm gave of token i, and so has a place less than the text::

    text       t0  t1  t2  t3 …          h_i: of the model's step over t_i
    its own        t1  t2  t3 …          what it gives there predicts the token after
                   h0  h1  h2 …

What it gives at the last place stands for the model's own, which is not computed yet, to propose a second token, and so
on. When the model has computed these, its own take their place: the layer's states are taken back to the last of them.

How much of the text it sees does not change what is right, only how often it is. It begins with the last :data:`_SEEN`
tokens of a prompt, as the first proposal would not pay for more; what the model gives of a token tells of those before.
"""

from collections.abc import Sequence

import numpy as np

from edgepress.bundle.mtp import DRAFTER as NAME
from edgepress.errors import InputError
from edgepress.runtime.generation.choosing import Choosing
from edgepress.runtime.generation.speculation.kinds import Opening
from edgepress.runtime.sessions.cpu import CpuSession

_SEEN = 16  # tokens that it reads of a text at once
_BEHIND = 2  # tokens that a step leaves unread: the last that was right, and the one after it
_EVIDENCE = 3  # more than a guess: heads that were trained with their model are right two times of three and more


class FurtherTokens:
    """The layer, with states of its own.

    Raises:
        InputError: the bundle has none, or what computes the model keeps nothing for it to read.

    """

    def __init__(self, opening: Opening) -> None:
        config = opening.config.of_drafter(NAME)
        if config is None:
            raise InputError(
                f"{opening.config.bundle} has nothing that predicts a token further, so mtp cannot speculate; export a "
                "checkpoint that has such a layer (Qwen3.5, Qwen3-Next) by a recipe with mtp = true, or take ngram"
            )
        self._hidden = opening.session.keep_hidden()
        session, self._costs = opening.open_graph(config)
        assert isinstance(session, CpuSession)
        self._session, self._step = session, opening.costs.seconds_of(1)
        self._text: list[int] = []
        self._start = 0  # the token of the text that its first place has what the final norm gave of
        self._known = 0  # places whose tokens are the text's, and what the final norm gave the model's own

    def begin(self, tokens: Sequence[int]) -> None:
        """Begin with the last tokens of the text."""
        self._text = list(tokens)
        self._start, self._known = len(self._text), 0

    def take(self, token: int) -> None:
        """Enter a token."""
        self._text.append(token)

    def evidence(self) -> int:
        """The same wherever the model's last step was kept."""
        return _EVIDENCE if len(self._text) - 2 >= self._hidden.first else 0

    def cost(self, count: int) -> float:
        """A step over what it has not read yet, and one for each token but the first."""
        behind = len(self._text) - 1 - self._place()[0]
        return (self._costs.seconds_of(behind) + (count - 1) * self._costs.seconds_of(1)) / self._step

    def once(self) -> float:
        """What it has not read beyond the two tokens that a step leaves it."""
        behind = len(self._text) - 1 - self._place()[0]
        return (self._costs.seconds_of(behind) - self._costs.seconds_of(min(behind, _BEHIND))) / self._step

    def propose(self, count: int, choosing: Choosing) -> list[int]:
        """The token chosen next, and after it that chosen by what was given there."""
        session, text = self._session, self._text
        first, start = self._place()
        if start != self._start:
            session.reset()
            self._start = start
        else:
            session.roll_back(self._known)
        logits = session.append_with(np.array(text[first + 1 :]), self._hidden.rows[first : len(text) - 1])
        self._known = session.position
        found = [choosing.ahead(logits[-1], [])]
        while len(found) < count and session.position < session.context:
            logits = session.append_with(np.array(found[-1:]), session.hidden_next)
            found.append(choosing.ahead(logits[-1], found))
        return found

    def _place(self) -> tuple[int, int]:
        """The first token that what was given of is to be read, and where the layer's text then begins."""
        read, last = self._start + self._known, len(self._text) - 1
        if last - read > _SEEN or not self._known:
            start = max(self._hidden.first, last - _SEEN)
            return start, start
        return read, self._start


DRAFTER = FurtherTokens
