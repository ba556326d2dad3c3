"""Top-1: the share of samples whose likeliest class is the right one."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from edgepress.runtime.scoring.kinds import Metric, Predictions, Rows, class_of, share
from edgepress.runtime.scoring.predicting import class_scores, same_class
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample
from edgepress.tasks.answers import Classes

TASKS = frozenset({"audio-classification", "image-classification", "text-classification"})


def hits(model: TaskModel, predictions: Predictions, samples: Sequence[Sample], top: int) -> Rows:
    """Whether the right class is among the ``top`` likeliest, and 1: (samples, 2); of equal scores the first counts."""
    labels = model.part(Classes).labels
    right = np.array([class_of(sample, labels) for sample in samples])
    ranked = np.argsort(-np.array(predictions), axis=1, kind="stable")[:, :top]
    found = (ranked == right[:, None]).any(axis=1)
    return np.stack([found, np.ones(len(found))], axis=1)


METRIC = Metric("top1", TASKS, class_scores, partial(hits, top=1), share, same_class)
