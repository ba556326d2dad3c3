"""Recall at 1: the share of pairs whose second text is the nearest to the first of all second texts."""

from collections.abc import Sequence

import numpy as np

from edgepress.runtime.scoring.kinds import Metric, Predictions, Rows, equal, share
from edgepress.runtime.scoring.predicting import ranks
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample

TASKS = frozenset({"feature-extraction", "sentence-similarity"})


def rows(_: TaskModel, predictions: Predictions, samples: Sequence[Sample]) -> Rows:
    """Whether the rank is 1, and 1: (samples, 2)."""
    return np.stack([np.array(predictions) == 1, np.ones(len(samples))], axis=1)


METRIC = Metric("recall-at-1", TASKS, ranks, rows, share, equal, labelled=False)
