"""What one of several answers is, and what chooses: ``CHOOSER`` in ``choosers/<name>.py``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import isnan
from pathlib import Path

from edgepress.errors import InputError
from edgepress.modules import modules_in
from edgepress.samples.read import import_function

_CHOOSERS = Path(__file__).parent / "choosers"
_PACKAGE = f"{__name__.rpartition('.')[0]}.{_CHOOSERS.name}"


@dataclass(frozen=True)
class Candidate:
    """One answer.

    ``log_probability`` is the sum of its tokens' (nats) as the model gives them, before any setting of sampling; a
    token that could only be that one, in an answer of a given form, adds nothing. ``ended`` says that the model or the
    form ended it, not a limit.
    """

    text: str
    tokens: int
    log_probability: float
    ended: bool


@dataclass(frozen=True)
class Chosen:
    """Number ``index`` of the candidates, its ``score`` by which it was chosen, and why, in a few words."""

    index: int
    score: float
    why: str


Chooser = Callable[[Sequence[Candidate]], Chosen]


def chooser_names() -> list[str]:
    """Every way of choosing that there is a file for."""
    return sorted(module.name for module in modules_in([str(_CHOOSERS)]))


def find_chooser(name: str, answer: str | None = None) -> Chooser:
    """The way of choosing of that name, or a verifier of the user's: ``package.module:callable``, text → number.

    ``answer`` is an expression that finds the answer in a text, for what compares answers.

    Raises:
        InputError: there is none, the expression is none, or the function cannot be imported.

    """
    if ":" in name:
        return verified_by(import_function(name), name)
    if name not in chooser_names():
        raise InputError(
            f"there is no way of choosing {name!r}; there are {', '.join(chooser_names())}, or package.module:callable"
        )
    make: Callable[[str | None], Chooser] = import_module(f"{_PACKAGE}.{name}").CHOOSER
    return make(answer)


def verified_by(verify: Callable[[str], object], name: str) -> Chooser:
    """Choose the answer to which ``verify`` gives the largest number (Cobbe et al. 2021, section 4).

    Of equals it is the first.

    Raises:
        InputError: when choosing, it fails, or gives something else than a number.

    """

    def choose(candidates: Sequence[Candidate]) -> Chosen:
        scores = []
        for one in candidates:
            try:
                given = verify(one.text)
            except Exception as error:  # the user's own code: whatever it raises
                raise InputError(f"{name} fails on an answer: {type(error).__name__}: {error}; mend it") from error
            if not isinstance(given, bool | int | float) or isnan(given):
                raise InputError(f"{name} gave {given!r} for an answer; it must give a number, the larger the better")
            scores.append(float(given))
        best = max(range(len(scores)), key=lambda index: scores[index])
        return Chosen(best, scores[best], f"{name} gives it {scores[best]:g}, the most of {len(scores)}")

    return choose
