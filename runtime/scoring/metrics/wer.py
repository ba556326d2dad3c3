"""Word error rate: substitutions, deletions and insertions for each word that is said, counted by jiwer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepress.errors import InputError
from edgepress.runtime.scoring.kinds import Metric, Predictions, Rows, answers, share, text_of
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample

TASKS = frozenset({"automatic-speech-recognition"})


def counted(predictions: Predictions, samples: Sequence[Sample], process: str) -> Rows:
    """Errors and length of what is said in each sample, (samples, 2), by jiwer's function of that name."""
    try:
        import jiwer
    except ImportError as error:
        raise InputError("errors in what is said are counted by jiwer; pip install 'edgepress[metrics]'") from error
    counts = []
    for prediction, sample in zip(predictions, samples, strict=True):
        found: Any = getattr(jiwer, process)(text_of(sample), heard(prediction))
        errors = found.substitutions + found.deletions + found.insertions
        counts.append((errors, found.hits + found.substitutions + found.deletions))
    return np.array(counts, np.float64)


def heard(prediction: Any) -> str:
    """The text of what was heard."""
    return str(prediction.text)


def same(one: object, other: object) -> bool:
    """Whether the same was heard."""
    return heard(one) == heard(other)


def rows(_: TaskModel, predictions: Predictions, samples: Sequence[Sample]) -> Rows:
    """Words."""
    return counted(predictions, samples, "process_words")


METRIC = Metric("wer", TASKS, answers, rows, share, same, higher_is_better=False)
