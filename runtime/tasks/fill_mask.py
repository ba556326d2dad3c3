"""Filling in: a text with blanks in, the likeliest tokens for each out."""

from dataclasses import dataclass

import numpy as np

from edgepress.errors import InputError
from edgepress.processing.scores import scores_of
from edgepress.runtime.tasks.common.texts import TextModel
from edgepress.runtime.tasks.kinds import TaskKind
from edgepress.tasks.answers import Blanks
from edgepress.whole import whole_number


@dataclass(frozen=True)
class Fill:
    """A token for a blank: what it writes, its score, and its number."""

    text: str
    score: float
    token: int


class Filler(TextModel):
    """``fill(text)``."""

    def fill(self, text: str, *, top: int | None = None) -> tuple[tuple[Fill, ...], ...]:
        """For each blank of a text, the likeliest tokens, the best first.

        Raises:
            InputError: it is no text, none of its tokens that are read is a blank, or ``top`` is no number of tokens.

        """
        blanks = self.part(Blanks)
        most = blanks.top if top is None else whole_number("top", top)
        tokens = self.encoder.encode([text])[0]
        places = np.flatnonzero(tokens.ids == blanks.mask)
        if not places.size:
            raise InputError(
                f"the text has no {blanks.written} in its {tokens.ids.size} tokens; write it where a word is missing"
            )
        scores = scores_of(self.rows_of([tokens], blanks.output)[0][places], "softmax")  # (blanks, vocabulary)
        best = np.argsort(-scores, axis=-1, kind="stable")[:, :most]
        return tuple(
            tuple(Fill(self.encoder.decode([int(token)]), float(row[token]), int(token)) for token in chosen)
            for chosen, row in zip(best, scores, strict=True)
        )

    def answer(self, sample: object) -> tuple[tuple[Fill, ...], ...]:
        """The likeliest tokens for each blank of a text."""
        return self.fill(sample)  # type: ignore[arg-type]  # the encoder says what is none


TASK = TaskKind("fill-mask", Filler)
