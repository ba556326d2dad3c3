"""Mean intersection over union of classes of pixels; pixels labelled 255, or beyond the classes, are not looked at."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepress.errors import InputError
from edgepress.processing.images import read_classes
from edgepress.runtime.scoring.kinds import Metric, Predictions, Rows, answers
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample
from edgepress.tasks.answers import Segments

_SAME = 0.99
"""The share of pixels from which two maps are the same answer."""


def rows(model: TaskModel, predictions: Predictions, samples: Sequence[Sample]) -> Rows:
    """For each class its pixels that are right, predicted and labelled: (samples, 3 · classes)."""
    count = len(model.part(Segments).labels)
    counted = [_counted(prediction, sample, count) for prediction, sample in zip(predictions, samples, strict=True)]
    return np.array(counted, np.float64)


def _counted(prediction: Any, sample: Sample, count: int) -> Rows:
    if sample.label is None or isinstance(sample.label, str):
        raise InputError(f"{sample.where} has no mask; name an image of the classes' numbers in the column mask")
    try:
        labelled = read_classes(sample.label)
    except InputError as error:
        raise InputError(f"{sample.where}: {error}") from error
    said = prediction.classes
    if labelled.shape != said.shape:
        raise InputError(f"{sample.where}: its mask has {labelled.shape} pixels and the image {said.shape}")
    seen = labelled < count
    right = labelled[seen & (said == labelled)]
    parts = (right, said[seen], labelled[seen])
    return np.concatenate([np.bincount(part, minlength=count) for part in parts]).astype(np.float64)


def value(rows: Rows, counts: Rows) -> Rows:
    """The mean over the classes that are predicted or labelled."""
    sums = (counts @ rows).reshape(len(counts), 3, -1)  # (draws, 3, classes)
    union = sums[:, 1] + sums[:, 2] - sums[:, 0]
    each = np.divide(sums[:, 0], union, out=np.zeros_like(union), where=union > 0)
    return np.asarray(each.sum(axis=1) / np.maximum((union > 0).sum(axis=1), 1))


def same(one: Any, other: Any) -> bool:
    """Whether two maps are nearly the same."""
    return bool((one.classes == other.classes).mean() >= _SAME)


METRIC = Metric("miou", frozenset({"semantic-segmentation"}), answers, rows, value, same)
