"""What a drafter is, and the file that each has: ``DRAFTER`` in ``drafters/<name>.py``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from edgepress.errors import InputError
from edgepress.modules import modules_in
from edgepress.runtime.config import BundleConfig
from edgepress.runtime.generation.choosing import Choosing
from edgepress.runtime.generation.speculation.costs import MOST_PROPOSED, StepCosts
from edgepress.runtime.sessions.session import Session
from edgepress.whole import whole_number

_DRAFTERS = Path(__file__).parent / "drafters"
_PACKAGE = f"{__name__.rpartition('.')[0]}.{_DRAFTERS.name}"


class Drafter(Protocol):
    """What proposes tokens of one text at a time, which it is told token by token.

    One that has states of its own brings them to the text when it proposes: what it is told costs nothing.
    """

    def begin(self, tokens: Sequence[int]) -> None:
        """The text is ``tokens`` so far."""

    def take(self, token: int) -> None:
        """The text goes on with ``token``."""

    def evidence(self) -> int:
        """How much speaks for what it would propose, a small number; 0 where it has nothing to go by.

        What proposals of the same evidence were worth decides how many of the next are worth a step.
        """

    def cost(self, count: int) -> float:
        """What it takes to propose ``count`` tokens now, in steps of the model; 0 where that is nothing against one."""

    def once(self) -> float:
        """What of :meth:`cost` is for text that it has not read, and would have had it been asked all along."""

    def propose(self, count: int, choosing: Choosing) -> list[int]:
        """At most ``count`` tokens that may come next, one after the other.

        One that has logits chooses by ``choosing.ahead``, as the text's own tokens are: by the same settings, and the
        same random numbers.
        """


@dataclass(frozen=True)
class Opening:
    """What a drafter is opened with.

    - ``config``: the bundle, whose ``of_drafter(name)`` is its graph of a drafter
    - ``session``: the model's own, with the text that tokens are proposed for
    - ``costs``: of the model's steps, which what a drafter takes is compared with
    - ``named``: a bundle that the user named to draft with
    - ``open_graph``: opens a graph of that kind on the CPU, once for all texts of the bundle; returns a session of it
      with no text, that is the drafter's alone, and what its steps cost
    """

    config: BundleConfig
    session: Session
    costs: StepCosts
    open_graph: Callable[[BundleConfig], tuple[Session, StepCosts]]
    named: Path | None = None


@dataclass(frozen=True)
class Speculation:
    """How an answer is speculated on.

    - ``drafter``: what proposes tokens, the name of a file in ``drafters/``
    - ``exact``: verify no more tokens in a step than give the same logits, bit for bit, as they do one by one. Which
      number that is depends on the processor's kernels; where it is one, there is no speculation. Without ``exact`` a
      token may become another one where the two likeliest are as good as equal
    - ``most``: tokens proposed for a step at most
    - ``bundle``: with the drafter ``draft`` a smaller bundle with the same tokenizer, in the place of the one that the
      bundle may have

    Raises:
        InputError: there is no such drafter, it takes no bundle, or ``most`` is out of range.

    """

    drafter: str = "ngram"
    exact: bool = True
    most: int = MOST_PROPOSED
    bundle: Path | None = None

    def __post_init__(self) -> None:
        if self.drafter not in drafter_names():
            raise InputError(f"there is no drafter {self.drafter!r}; there are {', '.join(drafter_names())}")
        limit = f"a step proposes 1 to {MOST_PROPOSED} tokens"
        whole_number("most", self.most, most=MOST_PROPOSED, takes=limit)
        if self.bundle is not None and self.drafter != "draft":
            raise InputError(f"{self.drafter} takes no bundle to draft with; name the drafter draft, or leave it out")

    def open(self, opening: Opening) -> Drafter:
        """A drafter for the texts of an open bundle, one after the other.

        Raises:
            InputError: the bundle does not have what the drafter needs.

        """
        made: Callable[[Opening], Drafter] = import_module(f"{_PACKAGE}.{self.drafter}").DRAFTER
        return made(opening)


def drafter_names() -> list[str]:
    """Every drafter that there is a file for."""
    return sorted(module.name for module in modules_in([str(_DRAFTERS)]))
