"""What a drafter is, and the file that each has: ``DRAFTER`` in ``drafters/<name>.py``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from edgepress.errors import InputError
from edgepress.modules import modules_in
from edgepress.whole import whole_number

_DRAFTERS = Path(__file__).parent / "drafters"
_PACKAGE = f"{__name__.rpartition('.')[0]}.{_DRAFTERS.name}"
MOST_PROPOSED = 15  # tokens of a step: with the one that is known they are the 16 that any cache can take back


class Drafter(Protocol):
    """What proposes tokens of one text, which it is told token by token."""

    cost: float
    """Of a proposed token, in steps of the model: 0 where it is nothing against one."""

    def begin(self, tokens: Sequence[int]) -> None:
        """The text is ``tokens`` so far."""

    def take(self, token: int) -> None:
        """The text goes on with ``token``."""

    def evidence(self) -> int:
        """How much speaks for what it would propose, a small number; 0 where it has nothing to go by.

        What proposals of the same evidence were worth decides how many of the next are worth a step.
        """

    def propose(self, count: int) -> list[int]:
        """At most ``count`` tokens that may come next, one after the other."""


@dataclass(frozen=True)
class Speculation:
    """How an answer is speculated on.

    - ``drafter``: what proposes tokens, the name of a file in ``drafters/``
    - ``exact``: verify no more tokens in a step than give the same logits, bit for bit, as they do one by one. Which
      number that is depends on the processor's kernels; where it is one, there is no speculation. Without ``exact`` a
      token may become another one where the two likeliest are as good as equal
    - ``most``: tokens proposed for a step at most

    Raises:
        InputError: there is no such drafter, or ``most`` is out of range.

    """

    drafter: str = "ngram"
    exact: bool = True
    most: int = MOST_PROPOSED

    def __post_init__(self) -> None:
        if self.drafter not in drafter_names():
            raise InputError(f"there is no drafter {self.drafter!r}; there are {', '.join(drafter_names())}")
        limit = f"a step proposes 1 to {MOST_PROPOSED} tokens"
        whole_number("most", self.most, most=MOST_PROPOSED, takes=limit)

    def open(self) -> Drafter:
        """A drafter for one text."""
        made: Callable[[], Drafter] = import_module(f"{_PACKAGE}.{self.drafter}").DRAFTER
        return made()


def drafter_names() -> list[str]:
    """Every drafter that there is a file for."""
    return sorted(module.name for module in modules_in([str(_DRAFTERS)]))
