"""What models say of many values, as metrics read it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.scores import scores_of
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.tasks.answers import Classes

Doubles = NDArray[np.float64]
_ROWS = 1024  # of scores that are there at once
_EQUAL = 1e-9


def class_scores(model: TaskModel, values: Sequence[object]) -> list[object]:
    """Scores of all classes for each value, (classes,)."""
    part = model.part(Classes)
    return [scores_of(model.run_rows(model.feed(value))[part.output][0], part.scores) for value in values]


def cosines(model: TaskModel, values: Sequence[object]) -> list[object]:
    """The cosine of each pair of texts."""
    first, second, _, _ = _vectors(model, values)
    return [float(cosine) for cosine in (first * second).sum(axis=1)]


def ranks(model: TaskModel, values: Sequence[object]) -> list[object]:
    """The rank from 1 of each pair's second text among the second texts of all pairs, by their cosines with the first.

    Of equal cosines the right one comes last, so that vectors that are all alike find nothing.
    """
    first, _, others, right = _vectors(model, values)
    found: list[object] = []
    for start in range(0, len(first), _ROWS):
        scores = first[start : start + _ROWS] @ others.T  # (rows, distinct second texts)
        own = scores[np.arange(len(scores)), right[start : start + _ROWS]]
        found += [int(rank) for rank in (scores >= own[:, None] - _EQUAL).sum(axis=1)]
    return found


def _vectors(model: TaskModel, values: Sequence[object]) -> tuple[Doubles, Doubles, Doubles, NDArray[np.int64]]:
    """Vectors of length 1: of first and second texts, of all distinct second texts, and which of these each is."""
    pairs = [_pair(value) for value in values]
    embedder: Any = model  # of a task that embeds texts, which the metric names
    texts = sorted({text for pair in pairs for text in pair})
    vectors = np.asarray(embedder.embed(texts), np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    place = {text: row for row, text in enumerate(texts)}
    first, second = (np.array([place[text] for text in side]) for side in zip(*pairs, strict=True))
    distinct, right = np.unique(second, return_inverse=True)
    return vectors[first], vectors[second], vectors[distinct], right


def _pair(value: object) -> tuple[str, str]:
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(text, str) for text in value):
        return value
    raise InputError(f"a pair of texts is compared, as sentence1 and sentence2; a sample has {str(value)[:60]!r}")


def same_class(one: Any, other: Any) -> bool:
    """Whether two lists of scores have the same best class."""
    return int(np.argmax(one)) == int(np.argmax(other))
