"""What outputs become: probabilities, and the best of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.tasks.answers import Classes, Scores
from edgepress.whole import whole_number


@dataclass(frozen=True)
class Label:
    """One class: its name, its score, and its place among the labels."""

    label: str
    score: float
    index: int


def scores_of(logits: NDArray[np.generic], kind: Scores) -> NDArray[np.float64]:
    """Scores along the last axis, in float64."""
    values = np.asarray(logits, np.float64)
    if kind == "none":
        return values
    if kind == "sigmoid":
        return np.asarray(np.exp(-np.logaddexp(0, -values)))
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def best_of(logits: NDArray[np.generic], classes: Classes, top: int | None = None) -> tuple[Label, ...]:
    """The classes that are told of one sample, (classes,), the best first; equal scores in the order of the labels.

    Raises:
        InputError: ``top`` is no number of labels.

    """
    scores = scores_of(logits, classes.scores)
    ranked = np.argsort(-scores, kind="stable")
    if top is not None or classes.threshold is None:
        ranked = ranked[: classes.top if top is None else whole_number("top", top)]
    else:
        ranked = ranked[scores[ranked] >= classes.threshold]
    return tuple(Label(classes.labels[index], float(scores[index]), int(index)) for index in ranked)
