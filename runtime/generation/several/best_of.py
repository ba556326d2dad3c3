"""Best of n: the same prompt is answered several times, and one of the answers is chosen."""

from collections.abc import Callable
from dataclasses import dataclass

from edgepress.errors import InputError
from edgepress.runtime.generation.generation import Generation
from edgepress.runtime.generation.several.budget import Budget, Spending
from edgepress.runtime.generation.several.kinds import Candidate, Chooser, Chosen
from edgepress.terminal.counts import counted
from edgepress.whole import whole_number


@dataclass(frozen=True)
class BestOf:
    """What came of it: ``candidates`` in the order in which they were made, and the ``chosen`` one.

    ``stopped_by`` is the limit that ended it before there were as many as asked, and what was spent; ``joules`` is 0
    where no limit asks for them. An answer that a limit cut off is no candidate, but where it is the only one.
    """

    candidates: tuple[Candidate, ...]
    chosen: Chosen
    stopped_by: str | None
    tokens: int
    seconds: float
    joules: float

    @property
    def text(self) -> str:
        """The answer."""
        return self.candidates[self.chosen.index].text

    def statistics(self) -> str:
        """What was chosen and what it took, in one line for a terminal."""
        spent = f"{counted(self.tokens, 'token')}, {self.seconds:.2f} s" + (
            f", {self.joules:.3g} J" if self.joules else ""
        )
        ended = f"; ended by the budget of {self.stopped_by}" if self.stopped_by else ""
        return f"number {self.chosen.index + 1} of {len(self.candidates)}: {self.chosen.why}; {spent}{ended}"


def best_of(
    generate: Callable[[int], Generation], count: int, choose: Chooser, *, budget: Budget | None = None, seed: int = 0
) -> BestOf:
    """Answer ``count`` times and choose.

    Args:
        generate: makes the generation of a seed, ``lambda seed: model.generate("…", temperature=1, seed=seed)``; what
            the prompts have in common is computed once.
        count: answers at most.
        choose: see :func:`.kinds.find_chooser`.
        budget: what all of them may cost together.
        seed: of the first answer; those of the others follow it.

    Raises:
        InputError: answers are drawn greedily, so that all would be the same; the choice or the budget cannot be made.

    """
    whole_number("the number of answers", count)
    made: list[Candidate] = []
    stopped_by: str | None = None
    with Spending(budget or Budget()) as spending:
        for number in range(count):
            generation = generate(seed + number)
            if generation.sampling.temperature == 0 and count > 1:
                raise InputError("at temperature 0 every answer is the same; give a temperature, such as 0.8")
            candidate, stopped_by = _answer(generation, spending)
            spending.tokens += candidate.tokens
            if stopped_by is None or not made:
                made.append(candidate)
            if stopped_by is not None:
                break
            stopped_by = spending.exceeded() if number + 1 < count else None
            if stopped_by is not None:
                break
        tokens, seconds, joules = spending.tokens, spending.seconds, spending.joules()
    return BestOf(tuple(made), choose(made), stopped_by, tokens, seconds, joules)


def _answer(generation: Generation, spending: Spending) -> tuple[Candidate, str | None]:
    """One answer, and the limit that cut it off."""
    generation.reuse = generation.scored = True
    left, asked = spending.tokens_left, generation.max_tokens
    if left is not None:
        generation.max_tokens = left if asked is None else min(asked, left)
    pieces: list[str] = []
    stopped_by = None
    for piece in generation:
        pieces.append(piece)
        stopped_by = spending.exceeded()
        if stopped_by is not None:
            break
    if generation.stop_reason == "max_tokens" and (asked is None or len(generation.tokens) < asked):
        stopped_by = spending.tokens_limit
    elif generation.stop_reason is not None:
        stopped_by = None  # it was complete by then
    ended = generation.stop_reason in {"end", "stop"}
    found = Candidate("".join(pieces), len(generation.tokens), generation.log_probability, ended)
    return found, stopped_by
