"""nDCG at 10 where one text is right: 1 / log₂(1 + rank) up to rank 10 [Järvelin and Kekäläinen 2002], on average."""

from collections.abc import Sequence

import numpy as np

from edgepress.runtime.scoring.kinds import Metric, Predictions, Rows, equal, share
from edgepress.runtime.scoring.metrics.recall_at_1 import TASKS
from edgepress.runtime.scoring.predicting import ranks
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample


def rows(_: TaskModel, predictions: Predictions, samples: Sequence[Sample]) -> Rows:
    """The gain, and 1: (samples, 2)."""
    found = np.array(predictions, np.float64)
    return np.stack([np.where(found <= 10, 1 / np.log2(1 + found), 0), np.ones(len(samples))], axis=1)


METRIC = Metric("ndcg-at-10", TASKS, ranks, rows, share, equal, labelled=False)
