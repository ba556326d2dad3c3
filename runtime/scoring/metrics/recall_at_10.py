"""Recall at 10: the share of pairs whose second text is among the ten nearest to the first of all second texts."""

from collections.abc import Sequence

import numpy as np

from edgepress.runtime.scoring.kinds import Metric, Predictions, Rows, equal, share
from edgepress.runtime.scoring.metrics.recall_at_1 import TASKS
from edgepress.runtime.scoring.predicting import ranks
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample


def rows(_: TaskModel, predictions: Predictions, samples: Sequence[Sample]) -> Rows:
    """Whether the rank is 10 at most, and 1: (samples, 2)."""
    return np.stack([np.array(predictions) <= 10, np.ones(len(samples))], axis=1)


METRIC = Metric("recall-at-10", TASKS, ranks, rows, share, equal, labelled=False)
