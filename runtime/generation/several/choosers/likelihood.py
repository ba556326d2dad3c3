"""The answer whose tokens the model itself thinks likeliest, on average: long answers are no worse for being long."""

from collections.abc import Sequence
from math import exp

from edgepress.errors import InputError
from edgepress.runtime.generation.several.kinds import Candidate, Chooser, Chosen


def make(answer: str | None) -> Chooser:
    """Compare whole answers; there is nothing to find in them."""
    if answer is not None:
        raise InputError("an expression for the answer is for the majority; leave it out, or choose by majority")
    return choose


def choose(candidates: Sequence[Candidate]) -> Chosen:
    """The largest log-probability a token (Adiwardana et al. 2020, section 3.2); the first of equals."""
    means = [one.log_probability / max(1, one.tokens) for one in candidates]
    best = max(range(len(means)), key=lambda index: means[index])
    why = f"its tokens have a probability of {exp(means[best]):.3f}, the most of {len(means)}"
    return Chosen(best, means[best], why)


CHOOSER = make
