"""Texts longer than the context: the first tokens and the last ones stay, and what is between them is forgotten.

Attention leans on a text's first tokens (Xiao et al. 2024, StreamingLLM, section 3): without them it falls apart. What
stays stands at the positions of a shorter text then, which the model was trained on, in one of two ways:

- ``moving``: the keys and values that there are move there, in place (section 3.2 of the paper). It takes less than a
  decoded token, so that a small share can be forgotten at a time; and what was forgotten lives on in what saw it
- ``computing``: what stays is computed again as a text of its own, with any kind of states. For each token that is
  decoded (1 − share) / share tokens are prefilled, which cost a fraction of it (the paper's "sliding window with
  re-computation", figure 1)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from edgepress.bundle.kept_text import FIRST, SHARE
from edgepress.errors import InputError
from edgepress.whole import whole_number

Way = Literal["moving", "computing"]
_SHARES: dict[Way, float] = {"moving": SHARE, "computing": 0.5}  # measured: docs/benchmarks.md, "Long texts"


class Evicting(Protocol):
    """What may have tokens taken out of its text."""

    def why_not_evict(self, recent: int, moves: int = 1) -> str:
        """Why tokens before the last ``recent`` cannot be taken out, each moved ``moves`` times; "" where they can."""


@dataclass(frozen=True)
class Forgetting:
    """How a text goes on when the context is full.

    - ``first`` tokens that always stay
    - ``share`` of the context that is forgotten at a time, 0 < share < 1; an eighth by moving, half by computing
    - ``way``: by ``moving`` or by ``computing``; None moves where the model's states can be moved

    Raises:
        InputError: a number is out of its range.

    """

    first: int = FIRST
    share: float | None = None
    way: Way | None = None

    def __post_init__(self) -> None:
        whole_number("the tokens that always stay", self.first, least=0)
        if self.share is not None and not 0 < self.share < 1:
            raise InputError(f"the share that is forgotten is {self.share}; it must be above 0 and below 1")
        if self.way not in (None, *_SHARES):
            raise InputError(f"what stays goes on by {self.way!r}; it must be by {' or by '.join(_SHARES)}")

    def for_text(self, text: Evicting, context: int) -> "Forgetting":
        """The same with nothing left open, for a text of at most ``context`` tokens.

        Raises:
            InputError: so few tokens fit that nothing but the first would stay, or they have to be moved and cannot.

        """
        moving, computing = (replace(self, way=way, share=self.share or share) for way, share in _SHARES.items())
        if self.way != "computing":
            recent = moving.recent(context)
            moves = -(-recent // (context - self.first - recent))
            why = text.why_not_evict(recent - 1, moves)  # the last is not computed yet
            if not why:
                return moving
            if self.way == "moving":
                raise InputError(f"what stays of the text cannot be moved: {why}; forget by computing what stays again")
        computing.recent(context)
        return computing

    def recent(self, context: int) -> int:
        """How many of the last tokens stay.

        Raises:
            InputError: so few tokens fit that nothing but the first would stay.

        """
        share = self.share or _SHARES[self.way or "computing"]
        most = context - max(1, int(context * share))
        if most - self.first < 1:
            raise InputError(
                f"the first {self.first} tokens always stay, and of a context of {context} a share of {share:g} "
                f"is forgotten at a time, so that {most} would be left: nothing of what was said last; keep fewer"
            )
        return most - self.first

    def kept(self, text: Sequence[int], context: int) -> list[int]:
        """What stays of ``text``, whose last tokens are not computed yet: the first ones, and then the last.

        Raises:
            InputError: so few tokens fit that nothing but the first would stay.

        """
        return [*text[: self.first], *text[self.first :][-self.recent(context) :]]
