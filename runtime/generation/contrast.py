"""Contrastive decoding: tokens that a model likes more than a worse one does.

Of tokens that are plausible, at least ``plausible`` times as likely as the likeliest, logits become
(1 + ``weight``) · expert − ``weight`` · amateur; no other token may come (Li et al. 2023, Contrastive Decoding; this
form: O'Brien and Lewis 2023, equation 3). What both say anyway, such as repeating what was said, weighs less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgepress.errors import InputError
from edgepress.runtime.generation.around import Around
from edgepress.runtime.generation.generation import OpenText
from edgepress.runtime.generation.penalties import NEVER, Floats


@dataclass(frozen=True)
class Contrast:
    """The worse model, open, with the same tokens; ``weight`` β ≥ 0, and 0 < ``plausible`` ≤ 1.

    Raises:
        InputError: a number is out of its range.

    """

    amateur: OpenText
    weight: float = 0.5
    plausible: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"the weight of a contrast is {self.weight}; it must be 0 or a positive number")
        if not 0 < self.plausible <= 1:
            raise InputError(f"what is plausible is {self.plausible}; it must be above 0 and at most 1")


def contrasted(expert: Floats, amateur: Floats, weight: float, plausible: float) -> Floats:
    """Logits (vocab,) of both → those to choose by, −∞ for what is not plausible."""
    floor = expert.max() + np.log(plausible)
    found: Floats = np.where(expert >= floor, (1 + weight) * expert - weight * amateur, NEVER).astype(np.float32)
    return found


class Contrasting(Around):
    """A text that two models hold; it is an :class:`OpenText` as the expert is, whose session alone counts its time.

    Raises:
        InputError: their vocabularies differ, or the amateur's context is shorter.

    """

    def __init__(self, expert: OpenText, how: Contrast) -> None:
        super().__init__(expert)
        self._how, self._amateur = how, how.amateur
        ours, theirs = (one.tokenizer.library.get_vocab(with_added_tokens=True) for one in (expert, how.amateur))
        if ours != theirs:
            raise InputError(
                f"a contrast needs two models with the same tokens; {len(ours.items() ^ theirs.items())} entries of "
                "their vocabularies differ"
            )
        if how.amateur.session.context < expert.session.context:
            raise InputError(
                f"the model to contrast with holds {how.amateur.session.context} tokens and this one "
                f"{expert.session.context}; open it with as many, or this one with fewer"
            )

    def begin(self, tokens: Sequence[int], *, reuse: bool) -> Floats:
        """Make the text ``tokens``; return the logits after the last."""
        return self._both(self.inside.begin(tokens, reuse=reuse), self._amateur.begin(tokens, reuse=reuse))

    def prefill(self, tokens: Sequence[int]) -> Floats:
        """Append tokens; return the logits after the last."""
        return self._both(self.inside.prefill(tokens), self._amateur.prefill(tokens))

    def decode(self, token: int) -> Floats:
        """Append one token; return the logits after it."""
        return self._both(self.inside.decode(token), self._amateur.decode(token))

    def why_not_evict(self, recent: int, moves: int = 1) -> str:
        """See :class:`OpenText`: both have to."""
        return self.inside.why_not_evict(recent, moves) or self._amateur.why_not_evict(recent, moves)

    def evict(self, first: int, count: int) -> None:
        """Take ``count`` tokens after the ``first`` ones out of the text of both."""
        self.inside.evict(first, count)
        self._amateur.evict(first, count)

    def settle(self) -> None:
        """Hold no more than the text that was asked for: the generation has ended."""
        self.inside.settle()
        self._amateur.settle()

    def _both(self, expert: Floats, amateur: Floats) -> Floats:
        return contrasted(expert, amateur, self._how.weight, self._how.plausible)
