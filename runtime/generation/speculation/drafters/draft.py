"""A smaller model of the same tokens: what it would say is proposed, until it is not sure of it.

Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"; Chen et al. 2023. The smaller model
is one that the bundle has, cut from its own (a recipe's ``[draft]``), or another bundle with the same tokenizer.

It reads the text only when it is asked to propose, and then no more than :data:`_READ` tokens that it has not read: it
begins anew with the last of them, since what it says of the next few tokens is seldom of more, and reading a long
prompt twice would have to be earned back first. A greedy proposal that has less than :data:`_SURE` is the last, since
what follows a wrong one is lost. Drawn ones are as often right where nothing is likely as where something is.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgepress.errors import InputError
from edgepress.runtime.config import BundleConfig, read_config
from edgepress.runtime.generation.choosing import Choosing
from edgepress.runtime.generation.speculation.costs import StepCosts
from edgepress.runtime.generation.speculation.kinds import Opening
from edgepress.runtime.graph_file.first_use import verify_first
from edgepress.runtime.sessions.session import Mark, Session
from edgepress.text.tokenizer import read_tokenizer

_READ = 16  # tokens
_BEHIND = 2  # tokens that a step leaves unread
_SURE = 0.3  # of 1
_EVIDENCE = 3  # there is one kind of proposals only, of which a good half are right


class Draft:
    """A session of the smaller model, and what it has in common with the text.

    Args:
        session: of the smaller model.
        costs: of its steps.
        step: seconds of a step of the model over one token.

    """

    def __init__(self, session: Session, costs: StepCosts, step: float) -> None:
        self._session, self._costs, self._step = session, costs, step
        self._text: list[int] = []
        self._start = 0  # the place in the text where what the session holds begins
        self._held: list[int] = []  # what it holds
        self._alike = 0  # how many of those are the text's
        self._mark: Mark | None = None

    def begin(self, tokens: Sequence[int]) -> None:
        """Take another text; of what is held that may be a beginning, as in a conversation."""
        old = self._text[: self._start + self._alike]
        self._text = list(tokens)
        shared = next((at for at, pair in enumerate(zip(old, tokens, strict=False)) if pair[0] != pair[1]), None)
        common = min(len(old), len(tokens)) if shared is None else shared
        self._alike = max(0, common - self._start)

    def take(self, token: int) -> None:
        """Note a token, and whether it is the one that was proposed."""
        if self._start + self._alike == len(self._text) and self._held[self._alike : self._alike + 1] == [token]:
            self._alike += 1
        self._text.append(token)

    def evidence(self) -> int:
        """The same for every text: what was right so far tells how much it is worth."""
        return _EVIDENCE

    def cost(self, count: int) -> float:
        """A step over what is not read yet, and one for each token after the first that is proposed."""
        _, read = self._unread(count)
        return (self._costs.seconds_of(read) + (count - 1) * self._costs.seconds_of(1)) / self._step

    def once(self) -> float:
        """What it has not read beyond the two tokens that a step leaves it: the last right one, and that after it."""
        _, read = self._unread(1)
        return (self._costs.seconds_of(read) - self._costs.seconds_of(min(read, _BEHIND))) / self._step

    def propose(self, count: int, choosing: Choosing) -> list[int]:
        """What is chosen after the text, what is after that, and so on."""
        session = self._session
        kept, read = self._unread(count)
        if kept:
            self._go_back(kept)
        else:
            session.reset()
            self._start = len(self._text) - read
        row = session.append(self._text[self._start + session.position :])[-1]
        self._held, self._mark = self._text[self._start :], session.mark()
        self._alike = len(self._held)
        found: list[int] = []
        while True:
            found.append(choosing.ahead(row, found))
            is_sure = choosing.sampling.temperature or np.exp(row - row.max(), dtype=np.float64).sum() <= 1 / _SURE
            if len(found) == count or not is_sure:
                return found
            row = session.append(found[-1:])[-1]
            self._held.append(found[-1])

    def _unread(self, count: int) -> tuple[int, int]:
        """How many of the tokens held stay, and how many of the text are read before ``count`` are proposed."""
        session = self._session
        room = session.context - count + 1
        kept = min(self._alike, len(self._text) - self._start - 1)  # one at least is read, as it gives the logits
        if kept < session.position and kept < max(session.earliest, 1):
            marked = 0 if self._mark is None else self._mark.position
            kept = marked if marked <= kept else 0
        behind = len(self._text) - self._start - kept
        if kept and behind <= _READ and kept + behind <= room:
            return kept, behind
        return 0, min(len(self._text), _READ, room)

    def _go_back(self, position: int) -> None:
        if position < self._session.position:
            self._session.roll_back(position, self._mark)


def _open(opening: Opening) -> Draft:
    session, costs = opening.open_graph(_config(opening))
    return Draft(session, costs, opening.costs.seconds_of(1))


def _config(opening: Opening) -> BundleConfig:
    """The smaller model: what the user named, or what the bundle has."""
    bundle, named = opening.config.bundle, opening.named
    if named is None:
        own = opening.config.of_drafter("draft")
        if own is None:
            raise InputError(
                f"{bundle} has no draft model; export it by a recipe with a [draft] table, name a smaller bundle with "
                "the same tokenizer, or speculate with ngram"
            )
        return own
    verify_first(named)
    other = read_config(named)
    sizes = opening.config.vocab_size, other.vocab_size
    if sizes[0] != sizes[1]:
        raise InputError(f"{named} has {sizes[1]} tokens and {bundle} {sizes[0]}; a draft model needs the same ones")
    if _tokens(named) != _tokens(bundle):
        raise InputError(f"the tokens of {named} are others than those of {bundle}; a draft model needs the same ones")
    return other


def _tokens(bundle: Path) -> dict[str, int]:
    return read_tokenizer(bundle).library.get_vocab(with_added_tokens=True)


DRAFTER = _open
