"""Spearman's rank correlation of cosines with what people say of pairs of texts."""

import warnings
from collections.abc import Sequence

import numpy as np

from edgepress.errors import InputError
from edgepress.runtime.scoring.kinds import Metric, Predictions, Rows, number_of
from edgepress.runtime.scoring.predicting import cosines
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample

_SAME = 0.01
"""Two cosines nearer than that are the same answer."""


def rows(_: TaskModel, predictions: Predictions, samples: Sequence[Sample]) -> Rows:
    """The cosine and the label, (samples, 2)."""
    return np.stack([np.array(predictions, np.float64), [number_of(sample) for sample in samples]], axis=1)


def value(rows: Rows, counts: Rows) -> Rows:
    """The correlation of the ranks, ties with their mean rank; of each draw."""
    try:
        from scipy.stats import spearmanr
    except ImportError as error:
        raise InputError("Spearman's correlation needs scipy; pip install 'edgepress[export]'") from error
    drawn = (np.repeat(rows, count.astype(np.int64), axis=0) for count in counts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of draws in which all are alike: NaN says so, and is left out
        return np.array([float(spearmanr(part[:, 0], part[:, 1]).statistic) for part in drawn])


def same(one: object, other: object) -> bool:
    """Whether two cosines are near each other."""
    return abs(float(str(one)) - float(str(other))) < _SAME


METRIC = Metric("spearman", frozenset({"feature-extraction", "sentence-similarity"}), cosines, rows, value, same)
