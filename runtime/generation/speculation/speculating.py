"""An open text whose steps compute several tokens where that pays: logits are handed out one row at a time.

Whoever generates asks for the logits after each token that it has chosen, and chooses as it always does: from the row,
by its own settings, its own random numbers, and the form that its answer has to have. A proposed token is right where
that choice is the same, and then the row after it is there already. So the distribution is the plain one's, and a seed
gives the same text. A drafter that has a distribution draws its proposals by the same random numbers, by which they are
right far more often than the likeliest tokens are (:mod:`..choosing`).

States that keep nothing of the past, as recurrent layers have, are gone back to by a copy from before the step. Tokens
of it that were right are then computed again, in the next step, before what that one proposes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgepress.finite import check_logits
from edgepress.runtime.generation.around import Around
from edgepress.runtime.generation.choosing import Choosing
from edgepress.runtime.generation.generation import OpenText, Tally
from edgepress.runtime.generation.penalties import Floats
from edgepress.runtime.generation.sampling import Sampling
from edgepress.runtime.generation.speculation.kinds import Drafter, Opening, Speculation
from edgepress.runtime.generation.speculation.window import Learned, Window
from edgepress.runtime.sessions.session import Mark


class Verifying(OpenText, Protocol):
    """An open text that several tokens can be appended to and taken back from."""

    def append(self, tokens: Sequence[int], first: int) -> Floats:
        """Append tokens; return the logits after each of ``tokens[first:]``, (rows, vocab)."""

    def take_back(self, position: int, mark: Mark) -> None:
        """Take back all tokens after the first ``position``; ``mark`` helps where it was made there."""


@dataclass
class _Step:
    """A step over several tokens whose rows are not all used yet; ``used`` proposals were right so far."""

    mark: Mark
    tokens: list[int]  # those proposed
    rows: Floats  # (1 + proposed, vocab): after the token before them, and after each
    computed: int  # tokens of the step
    evidence: int
    drafted: float  # steps that it took to propose them
    used: int = 0


class Speculating(Around):
    """``inner``, with several tokens a step; it is an :class:`OpenText` as that is.

    Args:
        inner: an open model, whose text nobody else may go on with meanwhile.
        drafter: what proposes tokens.
        window: how many of them a step verifies.
        most: as many at most.
        learned: what earlier answers have learned, of tokens that are drawn (True) and of those that are not; the
            window then goes on from it.

    """

    def __init__(
        self,
        inner: Verifying,
        drafter: Drafter,
        window: Window,
        most: int,
        learned: Mapping[bool, Learned] | None = None,
    ) -> None:
        super().__init__(inner)
        self._inner, self._drafter, self._window, self._most = inner, drafter, window, most
        self._learned = learned
        self.tally = Tally()
        self._text: list[int] = []  # whose logits were handed out; the session may be some tokens ahead, or behind
        self._ahead: _Step | None = None
        self._choosing = Choosing(Sampling(), [], 0)  # greedy, until it is told

    def chosen_by(self, choosing: Choosing) -> None:
        """Have tokens proposed as they are chosen, and as many as proved right of such ones before."""
        self._choosing = choosing
        if self._learned is not None:
            self._window.learned = self._learned[bool(choosing.sampling.temperature)]
            self._window.learned.next_answer()

    def begin(self, tokens: Sequence[int], *, reuse: bool) -> Floats:
        """Make the text ``tokens``; return the logits after the last."""
        logits = self._inner.begin(tokens, reuse=reuse)
        self._text, self._ahead = list(tokens), None
        self._drafter.begin(tokens)
        return logits

    def prefill(self, tokens: Sequence[int]) -> Floats:
        """Append tokens that are certain; return the logits after the last."""
        self.settle()
        behind = self._text[self.session.position :]
        for token in tokens:
            self._take(token)
        return self._inner.prefill([*behind, *tokens])

    def decode(self, token: int) -> Floats:
        """Append one token; return the logits after it, which are there already where it was proposed."""
        ahead = self._ahead
        if ahead is not None and ahead.used < len(ahead.tokens) and ahead.tokens[ahead.used] == token:
            ahead.used += 1
            self.tally.right += 1
            self._take(token)
            return self._row(ahead)
        self._note(judged=True)
        known = [*self._text[self.session.position :], token]
        self._take(token)
        self.tally.steps += 1
        drafter, drafted = self._drafter, 0.0
        evidence, tokens = drafter.evidence(), list[int]()
        count = self._width(evidence, len(known)) if evidence else 0
        if count > 0:
            prices = [drafter.cost(made) for made in range(1, count + 1)]  # of one that stops where it is not sure
            tokens = drafter.propose(count, self._choosing)
            drafted = prices[max(0, len(tokens) - 1)]
        if not tokens:
            self._window.plain(len(known), drafted)
            return self._inner.decode(token) if len(known) == 1 else self._inner.prefill(known)
        self.tally.proposed += len(tokens)
        mark = self.session.mark()
        rows = self._inner.append([*known, *tokens], len(known) - 1)
        self._ahead = _Step(mark, tokens, rows, len(known) + len(tokens), evidence, drafted)
        return self._row(self._ahead)

    def evict(self, first: int, count: int) -> None:
        """Take ``count`` tokens after the ``first`` ones out of the text; the drafter goes on with what is left."""
        self.settle()
        if behind := self._text[self.session.position :]:
            self._inner.prefill(behind)
        self._inner.evict(first, count)
        del self._text[first : first + count]
        self._drafter.begin(self._text)

    def _width(self, evidence: int, known: int) -> int:
        """How many tokens a step verifies beside ``known`` ones."""
        room = self.session.context - self.session.position - known
        again = self.session.earliest >= self.session.position
        width = self._window.width(evidence, known, self._drafter.cost, once=self._drafter.once(), again=again)
        return min(width, self._most, room)

    def _row(self, step: _Step) -> Floats:
        logits: Floats = step.rows[step.used]
        check_logits(logits, f"after {len(self._text)} tokens, of a step over {step.computed}")
        return logits

    def _take(self, token: int) -> None:
        self._text.append(token)
        self._drafter.take(token)

    def expect(self, token: int) -> None:
        """Pass nothing on: the session may hold more than the text, so that the token would not come after that."""

    def settle(self) -> None:
        """Note what the last step over several tokens was worth, and take back what nobody has asked for."""
        self._note(judged=False)

    def _note(self, *, judged: bool) -> None:
        """As :meth:`settle`; ``judged`` where the text goes on with another token than the one proposed."""
        step, self._ahead = self._ahead, None
        if step is None:
            return
        window, proposed = self._window, len(step.tokens)
        window.verified(step.evidence, proposed, step.used, step.computed, step.drafted, judged=judged)
        wanted = len(self._text)
        if wanted < self.session.position:
            self._inner.take_back(wanted if wanted >= self.session.earliest else step.mark.position, step.mark)


def open_speculating(
    inner: Verifying, how: Speculation, opening: Opening, learned: Mapping[bool, Learned]
) -> Speculating | None:
    """``inner`` with several tokens a step; None where no step over several gives the logits that are asked for.

    It goes on from what is ``learned`` by earlier answers, and adds to it.

    Raises:
        InputError: the bundle does not have what the drafter needs.

    """
    drafter, costs = how.open(opening), opening.costs
    most_rows = 1 + how.most if not how.exact else min(1 + how.most, costs.exact)
    if most_rows == 1:
        return None
    return Speculating(inner, drafter, Window(costs, most_rows), most_rows - 1, learned)
