"""Character error rate: as :mod:`.wer`, of characters."""

from collections.abc import Sequence

from edgepress.runtime.scoring.kinds import Metric, Predictions, Rows, answers, share
from edgepress.runtime.scoring.metrics.wer import TASKS, counted, same
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample


def rows(_: TaskModel, predictions: Predictions, samples: Sequence[Sample]) -> Rows:
    """Characters."""
    return counted(predictions, samples, "process_characters")


METRIC = Metric("cer", TASKS, answers, rows, share, same, higher_is_better=False)
