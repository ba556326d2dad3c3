"""Mean average precision of boxes, as COCO counts it (Lin et al. 2014), in rows that can be drawn again.

A detection is right at a threshold where it shares so much of its area with an object of its class that no surer one
has taken: it takes the one that it shares most with. Precision at a recall is the best at that recall or beyond; the
average precision of a class is the mean over recalls 0, 0.01 … 1, and the metric the mean over thresholds and the
classes that have objects.

A row has the number of classes, for each how many objects there are, and then for each detection its class (−1 where a
row has fewer than others), score, and at which thresholds it is right, a bit each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.boxes import Detection, overlap
from edgepress.runtime.scoring.kinds import Metric, Predictions, Rows
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample
from edgepress.tasks.answers import Boxes

Doubles = NDArray[np.float64]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Shares of the area of both together from which a box is right."""
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100  # detections of a class in an image
_CLASSES = ("categories", "category", "category_id", "labels", "label")
_SAME = 0.5  # the share from which two boxes are the same answer
_EACH = 3  # numbers of a detection


@dataclass(frozen=True)
class Found:
    """All that a detector gives of an image, and those above the bundle's threshold."""

    every: tuple[Detection, ...]
    told: tuple[Detection, ...]


def found_by(model: TaskModel, values: Sequence[object]) -> Predictions:
    """The objects in each image."""
    threshold = model.part(Boxes).threshold
    detector: Any = model  # of the one task that the metric names
    found: Predictions = []
    for value in values:
        every = detector.detect(value, threshold=-np.inf)
        found.append(Found(every, tuple(one for one in every if one.score > threshold)))
    return found


def rows_of(model: TaskModel, predictions: Predictions, samples: Sequence[Sample]) -> Rows:
    """See the module, (samples, numbers).

    Raises:
        InputError: a sample has no objects, or ones that are no boxes of the model's classes.

    """
    labels = model.part(Boxes).labels
    rows = []
    for prediction, sample in zip(predictions, samples, strict=True):
        assert isinstance(prediction, Found)
        classes, boxes = objects_of(sample, labels)
        counts = np.bincount(classes, minlength=len(labels)).astype(np.float64)
        rows.append(np.concatenate([[len(labels)], counts, _matched(prediction.every, classes, boxes).ravel()]))
    width = max(map(len, rows))
    return np.array([np.pad(row, (0, width - len(row)), constant_values=-1) for row in rows])


def objects_of(sample: Sample, labels: Sequence[str]) -> tuple[NDArray[np.int64], Doubles]:
    """The classes (objects,) and boxes (objects, 4), left, top, right and bottom, that a sample is labelled with."""
    label = sample.label
    given = label.get("bbox") if isinstance(label, dict) else None
    named = next((label[key] for key in _CLASSES if key in label), None) if isinstance(label, dict) else None
    if not isinstance(given, list) or not isinstance(named, list) or len(given) != len(named):
        raise InputError(
            f"{sample.where} has no objects; give them as objects = {{'bbox': [[left, top, width, height], …], "
            "'categories': [name or number, …]}, as many of one as of the other"
        )
    numbers = [labels.index(one) if isinstance(one, str) and one in labels else one for one in named]
    for number in numbers:
        if type(number) is not int or not 0 <= number < len(labels):
            raise InputError(f"{sample.where} has the class {number!r}; the model has {len(labels):,}")
    try:
        boxes = np.array(given, np.float64).reshape(len(given), 4)
    except ValueError as error:
        raise InputError(f"{sample.where} has boxes that are not four numbers each: {error}") from error
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < 0).any():
        raise InputError(f"{sample.where} has a box whose numbers are no place, width and height")
    return np.array(numbers, np.int64), np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _matched(detections: Sequence[Detection], classes: NDArray[np.int64], boxes: Doubles) -> Doubles:
    """Class, score and bits of each detection, (detections, 3)."""
    found = []
    for index in sorted({one.index for one in detections}):
        own = sorted((one for one in detections if one.index == index), key=lambda one: -one.score)[:_MOST]
        there = boxes[classes == index]
        taken = np.zeros((len(THRESHOLDS), len(there)), bool)
        for one in own:
            right = _take(overlap(np.array([one.left, one.top, one.right, one.bottom]), there), taken)
            found.append((index, one.score, int(right @ (1 << np.arange(len(THRESHOLDS))))))
    return np.array(found, np.float64).reshape(-1, _EACH)


def _take(shares: Doubles, taken: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """At which thresholds a detection is right, (thresholds,); what it takes is put into ``taken``."""
    if not shares.size:
        return np.zeros(len(THRESHOLDS), bool)
    left = np.where(taken, -1.0, shares)
    best = left.shape[1] - 1 - left[:, ::-1].argmax(axis=1)  # of equal ones the last, as COCO has it
    rows = np.arange(len(THRESHOLDS))
    right: NDArray[np.bool_] = left[rows, best] >= THRESHOLDS
    taken[rows[right], best[right]] = True
    return right


def mean_precision(rows: Rows, counts: Rows, thresholds: int) -> Rows:
    """The metric of each draw, (draws,), at so many of the :data:`THRESHOLDS`."""
    classes = int(rows[0, 0])
    objects, each = rows[:, 1 : 1 + classes], rows[:, 1 + classes :].reshape(len(rows), -1, _EACH)
    sums, there = np.zeros(len(counts)), np.zeros(len(counts))
    for index in range(classes):
        wanted = counts @ objects[:, index]  # (draws,)
        image, place = np.nonzero(each[:, :, 0] == index)
        order = np.argsort(-each[image, place, 1], kind="stable")
        image, bits = image[order], each[image, place, 2][order].astype(np.int64)
        precision = _precision(counts[:, image], bits, wanted, thresholds)
        sums += np.where(wanted > 0, precision, 0)
        there += wanted > 0
    return np.asarray(sums / np.maximum(there, 1))


def _precision(weights: Doubles, bits: NDArray[np.int64], wanted: Doubles, thresholds: int) -> Doubles:
    """The average precision of a class, (draws,), of detections (draws, detections) from the surest on."""
    draws, count = weights.shape
    if count == 0:
        return np.zeros(draws)
    every = np.cumsum(weights, axis=1)
    needed = _needed(wanted)  # (draws, recalls)
    rows = np.arange(draws)[:, None]
    total = np.zeros(draws)
    for threshold in range(thresholds):
        right = np.cumsum(weights * (bits >> threshold & 1), axis=1)
        precision = np.divide(right, every, out=np.zeros_like(right), where=every > 0)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        step = float(max(right.max(), needed.max())) + 1  # so that the rows, one after the other, are sorted
        places = np.searchsorted((right + step * rows).ravel(), (needed + step * rows).ravel()).reshape(draws, -1)
        places -= count * rows
        found = np.where(places < count, best[rows, np.minimum(places, count - 1)], 0)
        total += found.mean(axis=1)
    return np.asarray(total / thresholds)


def _needed(wanted: Doubles) -> Doubles:
    """How many objects have to be found for each recall, (draws, recalls)."""
    of = np.maximum(wanted, 1)[:, None]
    least = np.ceil(_RECALLS * of)
    least = np.where((least - 1) / of >= _RECALLS, least - 1, least)
    return np.where(least / of < _RECALLS, least + 1, least)


def same(one: object, other: object) -> bool:
    """Whether two images have the same objects: as many, each of the other's class and place."""
    assert isinstance(one, Found)
    assert isinstance(other, Found)
    if len(one.told) != len(other.told):
        return False
    left = list(other.told)
    for box in one.told:
        place = np.array([box.left, box.top, box.right, box.bottom])
        others = np.array([(x.left, x.top, x.right, x.bottom) for x in left], np.float64).reshape(-1, 4)
        shares = np.where([x.index == box.index for x in left], overlap(place, others), 0)
        if not shares.size or shares.max() < _SAME:
            return False
        left.pop(int(shares.argmax()))
    return True


def metric(name: str, thresholds: int) -> Metric:
    """The metric at the first so many thresholds."""
    tasks = frozenset({"object-detection"})
    return Metric(name, tasks, found_by, rows_of, lambda rows, counts: mean_precision(rows, counts, thresholds), same)
