"""Mean average precision held against pycocotools, on boxes that overlap, tie and miss."""

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_models import Arrays, opened

from edgepress.errors import InputError
from edgepress.processing.boxes import Detection
from edgepress.runtime.scoring.boxes import Found, same
from edgepress.runtime.scoring.kinds import find_metric
from edgepress.runtime.scoring.score import score
from edgepress.runtime.tasks.object_detection import Detector
from edgepress.samples.sample import Sample
from edgepress.tasks.answers import Answers, Boxes
from edgepress.tasks.images import Images

LABELS = ("cat", "dog", "owl")


def scene(seed: int) -> tuple[list[Sample], list[Found]]:
    """Images with a few objects of few places, and detections near them, some of equal scores."""
    draw, samples, found = np.random.default_rng(seed), [], []
    for image in range(int(draw.integers(1, 7))):
        count = int(draw.integers(0, 5))
        boxes = np.concatenate([draw.integers(0, 12, (count, 2)), draw.integers(4, 12, (count, 2))], axis=1)
        classes = draw.integers(0, 2 if seed % 3 else 3, count)
        samples.append(Sample("", {"bbox": boxes.tolist(), "categories": classes.tolist()}, f"image {image}"))
        detections = []
        for box, index in zip(boxes, classes, strict=True):
            for _ in range(int(draw.integers(0, 3))):
                left, top, width, height = box + draw.integers(-2, 3, 4) * draw.choice([0, 0.5])
                other = int(index if draw.random() < 0.8 else draw.integers(3))
                surety = float(draw.integers(1, 6) / 5)
                detections.append(
                    Detection(LABELS[other], surety, left, top, left + max(width, 1), top + max(height, 1), other)
                )
        found.append(Found(tuple(sorted(detections, key=lambda one: -one.score)), ()))
    return samples, found


def by_coco(samples: list[Sample], found: list[Found]) -> tuple[float, float]:
    """The first two numbers of pycocotools."""
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    objects, results = [], []
    for image, (sample, prediction) in enumerate(zip(samples, found, strict=True)):
        label: Any = sample.label
        for box, index in zip(label["bbox"], label["categories"], strict=True):
            number = len(objects) + 1
            objects.append({"id": number, "image_id": image, "category_id": index, "bbox": box, "iscrowd": 0})
            objects[-1]["area"] = box[2] * box[3]
        for one in prediction.every:
            box = [one.left, one.top, one.right - one.left, one.bottom - one.top]
            results.append({"image_id": image, "category_id": one.index, "bbox": box, "score": one.score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(len(samples))],
            "categories": [{"id": index} for index in range(len(LABELS))],
            "annotations": objects,
        }
        truth.createIndex()
        evaluated = evaluation.COCOeval(truth, truth.loadRes(results), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return float(evaluated.stats[0]), float(evaluated.stats[1])


def detector() -> Any:
    """A detector that sees one cat in the left half of every image."""
    scores = np.full((1, 2, 3), -9.0, np.float32)
    scores[0, 0, 0] = 3
    outputs: Arrays = {"scores": scores, "boxes": np.array([[[0, 0, 4, 8], [1, 1, 2, 2]]], np.float32)}
    return opened(
        "object-detection",
        {"pixels": ("float32", (1, 3, 8, 8))},
        {"scores": (1, "queries", 3), "boxes": (1, "queries", 4)},
        lambda _: outputs,
        images=Images(input="pixels"),
        answers=Answers(
            boxes=Boxes(output="scores", boxes="boxes", labels=LABELS, scores="sigmoid", form="corners", unit="pixels")
        ),
    )


@given(st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_precision_is_that_of_coco(seed: int) -> None:
    samples, found = scene(seed)
    if not any(one.every for one in found) or not any(sample.label["bbox"] for sample in samples):  # type: ignore[index]
        return  # for which pycocotools has no number
    model, expected = detector(), by_coco(samples, found)
    for name, number in zip(("map", "map-50"), expected, strict=True):
        metric = find_metric(name)
        rows = metric.rows(model, list(found), samples)
        assert metric.value(rows, np.ones((1, len(rows))))[0] == pytest.approx(number, abs=1e-9)


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_an_image_that_is_drawn_twice_counts_twice(seed: int) -> None:
    """Of equal scores in an image the order would be another, which the metric depends on."""
    samples, tied = scene(seed)
    found = [Found(tuple(replace(one, score=one.score - n / 1e4) for n, one in enumerate(f.every)), ()) for f in tied]
    counts = np.random.default_rng(seed).integers(0, 3, (4, len(samples))).astype(float)
    metric, model = find_metric("map"), detector()
    together = metric.value(metric.rows(model, list(found), samples), counts)
    for draw, expected in zip(counts.astype(int), together, strict=True):
        order = [index for index, count in enumerate(draw) for _ in range(count)]
        if order:
            rows = metric.rows(model, [found[index] for index in order], [samples[index] for index in order])
            assert metric.value(rows, np.ones((1, len(rows))))[0] == pytest.approx(expected, abs=1e-12)


def test_a_detector_is_scored_beside_another() -> None:
    model = detector()
    assert isinstance(model, Detector)
    image = np.zeros((8, 8, 3), np.uint8)
    right = {"bbox": [[0, 0, 4, 8]], "categories": ["cat"]}
    missed = {"bbox": [[0, 0, 4, 8], [4, 4, 4, 4]], "labels": [0, 1]}
    samples = [Sample(image, right, "one"), Sample(image, missed, "two")]
    whole, half = score(model, samples, [find_metric("map"), find_metric("map-50")], reference=detector())
    assert whole.value == half.value == 0.5  # all cats, no dog
    assert whole.changed == 0
    assert whole.difference == 0


def test_answers_are_the_same_where_each_object_is_there() -> None:
    cat, dog = Detection("cat", 0.9, 0, 0, 4, 4, 0), Detection("dog", 0.9, 0, 0, 4, 4, 1)
    near, far = Detection("cat", 0.6, 0, 0, 4, 5, 0), Detection("cat", 0.9, 3, 3, 8, 8, 0)
    for one, other, expected in (
        ((cat, far), (far, near), True),
        ((cat,), (dog,), False),
        ((cat,), (far,), False),
        ((cat, cat), (cat, far), False),
        ((cat,), (), False),
        ((), (), True),
    ):
        assert same(Found((), one), Found((), other)) is expected


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "photo 7 has no objects"),
        ({"bbox": [[0, 0, 1, 1]]}, "has no objects"),
        ({"bbox": [[0, 0, 1, 1]], "categories": [0, 1]}, "as many of one as of the other"),
        ({"bbox": [[0, 0, 1, 1]], "categories": ["cow"]}, "has the class 'cow'; the model has 3"),
        ({"bbox": [[0, 0, 1, 1]], "categories": [3]}, "has the class 3; the model has 3"),
        ({"bbox": [[0, 0, 1]], "categories": [0]}, "four numbers each"),
        ({"bbox": [[0, 0, 1, -1]], "categories": [0]}, "no place, width and height"),
        ({"bbox": [[0, 0, 1, "a"]], "categories": [0]}, "four numbers each"),
    ],
)
def test_labels_that_are_no_boxes_are_refused(label: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(detector(), [Sample(np.zeros((8, 8, 3), np.uint8), label, "photo 7")], [find_metric("map")])
