"""What a step over several tokens costs, and over how many its logits are those of single steps: both measured here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from edgepress.runtime.sessions.session import Session, Tokens

MOST_PROPOSED = 15  # tokens of a step: with the one that is known they are the 16 that any cache can take back
_ROWS = (1, 2, 3, 4, 8, MOST_PROPOSED + 1)
_BEFORE = (24, 24, 24, 72, 144)  # tokens of the texts that steps are measured after; rounding depends on their number


@dataclass(frozen=True)
class StepCosts:
    """Seconds of a step over so many tokens, ``{tokens: seconds}``, and over how many logits stay the same bits."""

    seconds: dict[int, float]
    exact: int

    def of(self, tokens: int) -> float:
        """What a step over ``tokens`` tokens costs, in steps over one; between those measured, on a straight line."""
        return self.seconds_of(tokens) / self.seconds[min(self.seconds)]

    def seconds_of(self, tokens: int) -> float:
        """Seconds of a step over ``tokens`` tokens; beyond those measured, in proportion to the most."""
        rows = sorted(self.seconds)
        beyond = max(1.0, tokens / rows[-1])
        return beyond * float(np.interp(tokens, rows, [self.seconds[row] for row in rows]))


def measure_steps(session: Session, *, most: int = MOST_PROPOSED + 1, reads: bool = False) -> StepCosts:
    """Measure ``session``, which has no text yet and has none after it: some 150 tokens in steps, 300 before them.

    The least of several times is taken: what else the machine does makes steps longer, never shorter. With ``reads``
    steps give the logits of their last token alone, as those of what reads a text to propose the next; none are exact.

    Raises:
        InputError: the model cannot be run.

    """
    most = min(most, session.context - 1)
    rows = [count for count in _ROWS if count <= most]
    generator = np.random.default_rng(0)
    seconds = dict.fromkeys(rows, math.inf)
    exact = most
    for wanted in _BEFORE:
        before = max(1, min(wanted, session.context - most))
        text = generator.integers(0, session.vocab_size, before + most)
        session.reset()
        session.append(text[:before])
        for count in rows:
            mark = session.mark()
            start = perf_counter()
            session.append(text[before : before + count], -1 if reads else 0)
            seconds[count] = min(seconds[count], perf_counter() - start)
            session.roll_back(before, mark)
        exact = 1 if reads else _exact(session, text, before, [count for count in rows if count <= exact])
    session.reset()
    return StepCosts(seconds, exact)


def _exact(session: Session, text: Tokens, before: int, rows: Sequence[int]) -> int:
    """The most of ``rows`` up to which a step's logits are bit for bit those of single steps."""
    mark = session.mark()
    if len(rows) < 2:
        return 1
    single = np.concatenate([session.append(text[at : at + 1]).copy() for at in range(before, before + rows[-1])])
    session.roll_back(before, mark)
    exact = 1
    for count in rows:
        found = session.append(text[before : before + count], 0)
        if not np.array_equal(found, single[:count]):
            break
        exact = count
        session.roll_back(before, mark)
    return exact
