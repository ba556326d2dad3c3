"""Self-consistency: the answer that most texts come to, whatever way they took (Wang et al. 2023)."""

import re
from collections import Counter
from collections.abc import Sequence

from edgepress.errors import InputError
from edgepress.runtime.generation.several.kinds import Candidate, Chooser, Chosen


def make(answer: str | None) -> Chooser:
    """Count what the expression ``answer`` finds last in each text, its first group if it has one, or whole texts."""
    try:
        wanted = None if answer is None else re.compile(answer)
    except re.error as error:
        raise InputError(f"{answer!r} is no regular expression: {error}") from error

    def choose(candidates: Sequence[Candidate]) -> Chosen:
        answers = [_answer(one.text, wanted) for one in candidates]
        given = [one for one in answers if one is not None]
        if not given:
            raise InputError(f"{answer!r} is found in none of the {len(answers)} texts, so there is no majority")
        said, votes = Counter(given).most_common(1)[0]  # of equals the one that came first
        return Chosen(answers.index(said), float(votes), f"{votes} of {len(answers)} texts say {_short(said)!r}")

    return choose


def _answer(text: str, wanted: "re.Pattern[str] | None") -> str | None:
    """What a text says in the end, without space around it; None where it has no answer."""
    if wanted is None:
        return text.strip()
    last = None
    for last in wanted.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    return None if last is None else (last[1] if wanted.groups else last[0] or "").strip()


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


CHOOSER = make
