"""Boxes around objects out of what a detector gives."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.processing.scores import scores_of
from edgepress.tasks.answers import Boxes

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Detection:
    """An object: its label, score, box in pixels of the image, and the label's number."""

    label: str
    score: float
    left: float
    top: float
    right: float
    bottom: float
    index: int


def detections_of(
    logits: NDArray[np.generic],
    boxes: NDArray[np.generic],
    part: Boxes,
    *,
    image: tuple[int, int],
    made: tuple[int, int],
    threshold: float | None = None,
) -> tuple[Detection, ...]:
    """The objects in an image, the surest first, of scores (queries, classes) and boxes (queries, 4).

    ``image`` is its height and width, ``made`` those of what the graph saw of it.
    """
    scores = scores_of(logits, part.scores)
    scores = scores[:, : len(part.labels)]  # behind them there may be "no object"
    if part.scores == "softmax":  # one class a query
        queries, classes = np.arange(len(scores)), scores.argmax(axis=1)
    else:
        queries, classes = (axis.ravel() for axis in np.indices(scores.shape))
    sure = scores[queries, classes]
    kept = np.argsort(-sure, kind="stable")[: part.top]
    kept = kept[sure[kept] > (part.threshold if threshold is None else threshold)]
    corners = corners_of(np.asarray(boxes, np.float64), part, image, made)[queries[kept]]
    if part.overlap is not None:
        chosen = without_overlaps(corners, classes[kept], part.overlap)
        kept, corners = kept[chosen], corners[chosen]
    return tuple(
        Detection(part.labels[classes[index]], float(sure[index]), left, top, right, bottom, int(classes[index]))
        for index, (left, top, right, bottom) in zip(kept, corners.tolist(), strict=True)
    )


def corners_of(boxes: Doubles, part: Boxes, image: tuple[int, int], made: tuple[int, int]) -> Doubles:
    """Left, top, right and bottom in pixels of the image, of boxes as the graph has them."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if part.form == "centre":
        first, second = first - second / 2, first + second / 2
    height, width = image
    scale = np.array([width, height], np.float64)
    if part.unit == "pixels":
        scale = scale / np.array([made[1], made[0]], np.float64)
    return np.concatenate([first * scale, second * scale], axis=1)


def without_overlaps(corners: Doubles, classes: NDArray[np.integer], most: float) -> NDArray[np.int64]:
    """Numbers of the boxes that are kept, of those sorted by score.

    A box goes that shares more than ``most`` of the area of both together with a surer one of its class.
    """
    left = np.arange(len(corners))
    kept: list[int] = []
    while left.size:
        first, rest = left[0], left[1:]
        kept.append(int(first))
        same = classes[rest] == classes[first]
        left = rest[~(same & (overlap(corners[first], corners[rest]) > most))]
    return np.array(kept, np.int64)


def overlap(one: Doubles, others: Doubles) -> Doubles:
    """Intersection over union of a box, (4,), with others, (n, 4)."""
    start, end = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    shared = np.prod(np.maximum(end - start, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    together = np.prod(one[2:] - one[:2]) + areas - shared
    return np.asarray(np.divide(shared, together, out=np.zeros_like(shared), where=together > 0))
