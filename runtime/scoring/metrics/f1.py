"""F1, macro: the mean over classes of 2 · hits / (predicted + labelled); classes that are neither are left out."""

from collections.abc import Sequence

import numpy as np

from edgepress.runtime.scoring.kinds import Metric, Predictions, Rows, class_of
from edgepress.runtime.scoring.metrics.top1 import TASKS
from edgepress.runtime.scoring.predicting import class_scores, same_class
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample
from edgepress.tasks.answers import Classes


def rows(model: TaskModel, predictions: Predictions, samples: Sequence[Sample]) -> Rows:
    """For each class whether it is hit, predicted and labelled: (samples, 3 · classes)."""
    labels = model.part(Classes).labels
    right = np.array([class_of(sample, labels) for sample in samples])
    predicted = np.argmax(np.array(predictions), axis=1)
    said, is_ = (np.eye(len(labels))[numbers] for numbers in (predicted, right))
    return np.concatenate([said * is_, said, is_], axis=1)


def value(rows: Rows, counts: Rows) -> Rows:
    """The mean over classes."""
    sums = (counts @ rows).reshape(len(counts), 3, -1)  # (draws, 3, classes)
    there = sums[:, 1] + sums[:, 2]
    each = np.divide(2 * sums[:, 0], there, out=np.zeros_like(there), where=there > 0)
    return np.asarray(each.sum(axis=1) / np.maximum((there > 0).sum(axis=1), 1))


METRIC = Metric("f1", TASKS, class_scores, rows, value, same_class)
