"""Token classification: a text in, the spans that have a label out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.processing.scores import scores_of
from edgepress.processing.text import Tokens
from edgepress.runtime.tasks.common.texts import TextModel
from edgepress.runtime.tasks.kinds import TaskKind
from edgepress.tasks.answers import Spans


@dataclass(frozen=True)
class Span:
    """A piece of a text: its label, the mean score of its tokens, its text, and where it starts and ends in it."""

    label: str
    score: float
    text: str
    start: int
    end: int


class TokenClassifier(TextModel):
    """``spans(text)``."""

    def spans(self, text: str) -> tuple[Span, ...]:
        """The spans of a text that have a label, in its order.

        Raises:
            InputError: it is no text.

        """
        part = self.part(Spans)
        tokens = self.encoder.encode([text])
        return spans_of(self.rows_of(tokens, part.output)[0], tokens[0], text, part)

    def answer(self, sample: object) -> tuple[Span, ...]:
        """The spans of a text."""
        return self.spans(sample)  # type: ignore[arg-type]  # the encoder says what is none


def spans_of(logits: NDArray[np.generic], tokens: Tokens, text: str, part: Spans) -> tuple[Span, ...]:
    """Neighbouring tokens of one class as spans, as transformers' aggregation strategy ``simple`` makes them."""
    scores = scores_of(logits, part.scores)  # (tokens, classes)
    best = scores.argmax(axis=-1)
    spans: list[Span] = []
    group: list[int] = []

    def close() -> None:
        if group:
            label = _entity(part.labels[best[group[0]]])[1]
            start, end = int(tokens.offsets[group[0], 0]), int(tokens.offsets[group[-1], 1])
            mean = float(np.mean([scores[index, best[index]] for index in group]))
            if label not in part.outside:
                spans.append(Span(label, mean, text[start:end], start, end))

    for index in np.flatnonzero(~tokens.special):
        begins, label = _entity(part.labels[best[index]])
        if not group or begins or label != _entity(part.labels[best[group[-1]]])[1]:
            close()
            group = []
        group.append(int(index))
    close()
    return tuple(spans)


def _entity(label: str) -> tuple[bool, str]:
    """Whether a label begins a span, and the name of what it is one of."""
    if label.startswith(("B-", "I-")):
        return label.startswith("B-"), label[2:]
    return False, label


TASK = TaskKind("token-classification", TokenClassifier)
