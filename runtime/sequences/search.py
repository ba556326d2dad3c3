"""Targets of an encoder's source that are chosen token by token, greedily as transformers has it or drawn.

Several ways at once are followed by :func:`edgepress.runtime.generation.several.beams.beam_search`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.runtime.generation.sampling import log_softmax
from edgepress.runtime.sequences.rules import Rules
from edgepress.runtime.sequences.targets import SequenceSession

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Draw:
    """Tokens are drawn by their probabilities at a ``temperature`` above 0, in the place of the likeliest."""

    temperature: float
    random: np.random.Generator

    def token(self, scores: Floats) -> int:
        """One of the vocabulary, by its scores, (vocabulary,)."""
        scaled = scores.astype(np.float64) / self.temperature
        sums = np.cumsum(np.exp(scaled - scaled.max()))
        return int(np.searchsorted(sums, self.random.random() * sums[-1], side="right"))


def greedy(
    model: SequenceSession,
    start: list[int],
    rules: Rules,
    said: list[float] | None = None,
    draw: Draw | None = None,
) -> Iterator[int]:
    """Yield the tokens of the target after ``start``, each the likeliest, ties to the lowest id, and the one that ends.

    The model's source is encoded. It ends, too, when the target has ``rules.most`` tokens. The log-probability of each
    token, among those that the rules allow, is put into ``said``; with ``draw`` they are drawn.
    """
    target = list(start)
    model.begin()
    logits = model.append(start)
    while True:
        scores = rules.apply(np.array([target], np.int64), logits[None])
        token = int(scores[0].argmax()) if draw is None else draw.token(scores[0])
        target.append(token)
        if said is not None:
            said.append(float(log_softmax(scores)[0, token]))
        yield token
        if token in rules.ends or len(target) >= rules.most:
            return
        logits = model.append([token])
