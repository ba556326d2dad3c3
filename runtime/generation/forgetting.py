"""Texts longer than the context: the first tokens and the last ones stay, and what is between them is forgotten.

What stays is computed again as a text of its own, so that every token sees the positions that the model was trained on,
whatever kinds of states it has. Attention leans on a text's first tokens (Xiao et al. 2024, StreamingLLM, section 3):
without them it falls apart. That paper also moves the keys and values that stay to new positions instead of computing
them again, which it finds to be no better ("sliding window with re-computation", figure 1, its own baseline for
accuracy) and faster where one token at a time is forgotten. Here a share is forgotten at once: for each token that is
decoded (1 − share) / share tokens are prefilled, which cost a fraction of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgepress.errors import InputError
from edgepress.whole import whole_number


@dataclass(frozen=True)
class Forgetting:
    """How a text goes on when the context is full.

    - ``first`` tokens that always stay
    - ``share`` of the context that is forgotten at a time, 0 < share < 1

    Raises:
        InputError: a number is out of its range.

    """

    first: int = 4
    share: float = 0.5

    def __post_init__(self) -> None:
        whole_number("the tokens that always stay", self.first, least=0)
        if not 0 < self.share < 1:
            raise InputError(f"the share that is forgotten is {self.share}; it must be above 0 and below 1")

    def kept(self, text: Sequence[int], context: int) -> list[int]:
        """What stays of ``text``, whose last tokens are not computed yet: the first ones, and then the last.

        Raises:
            InputError: so few tokens fit that nothing but the first would stay.

        """
        most = context - max(1, int(context * self.share))
        last = most - self.first
        if last < 1:
            raise InputError(
                f"the first {self.first} tokens always stay, and of a context of {context} a share of {self.share:g} "
                f"is forgotten at a time, so that {most} would be left: nothing of what was said last; keep fewer"
            )
        return [*text[: self.first], *text[self.first :][-last:]]
