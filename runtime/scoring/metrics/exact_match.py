"""Exact match: the share of samples whose text is the right one, word for word; spaces around it count for nothing."""

from collections.abc import Sequence

import numpy as np

from edgepress.runtime.scoring.kinds import Metric, Predictions, Rows, answers, equal, share, text_of
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample
from edgepress.tasks.sequences import TEXT_TASKS

TASKS = frozenset(TEXT_TASKS)


def rows(_: TaskModel, predictions: Predictions, samples: Sequence[Sample]) -> Rows:
    """Whether a text is right, and 1: (samples, 2)."""
    right = [str(one).strip() == text_of(sample).strip() for one, sample in zip(predictions, samples, strict=True)]
    return np.stack([np.array(right, np.float64), np.ones(len(right))], axis=1)


METRIC = Metric("exact-match", TASKS, answers, rows, share, equal)
