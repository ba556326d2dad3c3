"""Metrics held against torchmetrics, scipy and counting by hand; intervals against what they promise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from task_models import Arrays, opened

from edgepress.errors import InputError
from edgepress.processing.scores import Label
from edgepress.runtime.scoring.kinds import chosen_metrics, find_metric, metric_names, metrics_of
from edgepress.runtime.scoring.score import DRAWS, format_scores, score, spread_over
from edgepress.runtime.tasks.automatic_speech_recognition import Transcription
from edgepress.runtime.tasks.kinds import TaskModel, task_names
from edgepress.runtime.tasks.semantic_segmentation import Segmentation
from edgepress.samples.sample import Sample, of_list
from edgepress.tasks.answers import Answers, Classes, Segments, Transcript
from edgepress.tasks.sequences import TEXT_TASKS

LABELS = ("a", "b", "c", "d", "e", "f", "g")


def classifier(weights: NDArray[np.float32] | None = None) -> Any:
    """An open bundle whose logits are its input, times ``weights``."""
    matrix = np.eye(len(LABELS), dtype=np.float32) if weights is None else weights
    model = opened(
        "text-classification",
        {"x": ("float32", ("batch", len(LABELS)))},
        {"logits": ("batch", len(LABELS))},
        lambda inputs: {"logits": np.asarray(inputs["x"], np.float32) @ matrix},
        answers=Answers(classes=Classes(output="logits", labels=LABELS)),
    )
    assert model.feeder.takes == "arrays"
    return model


def samples_of(logits: NDArray[np.float32], labels: Sequence[object]) -> list[Sample]:
    return [
        Sample({"x": row[None]}, label, f"s{index}")
        for index, (row, label) in enumerate(zip(logits, labels, strict=True))
    ]


def value_of(name: str, rows: NDArray[np.float64]) -> float:
    return float(find_metric(name).value(rows, np.ones((1, len(rows))))[0])


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_classification_is_scored_as_torchmetrics_does(count: int, seed: int) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification", reason="the oracle: torchmetrics")
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, len(LABELS))).astype(np.float32)
    labels = generator.integers(0, len(LABELS), count)
    model, given = classifier(), samples_of(logits, [LABELS[label] for label in labels])
    scores = {one.metric: one.value for one in score(model, given, metrics_of("text-classification", labelled=True))}
    predicted, right = torch.from_numpy(logits), torch.from_numpy(labels)
    for name, top in (("top1", 1), ("top5", 5)):
        wanted = functional.multiclass_accuracy(predicted, right, len(LABELS), average="micro", top_k=top)
        assert scores[name] == pytest.approx(float(wanted), abs=1e-6)
    assert scores["f1"] == pytest.approx(
        float(functional.multiclass_f1_score(predicted, right, len(LABELS), average="macro")), abs=1e-6
    )


def test_resampled_values_are_those_of_repeated_samples() -> None:
    generator = np.random.default_rng(4)
    rows = {
        "top1": np.stack([generator.integers(0, 2, 30), np.ones(30)], axis=1),
        "f1": generator.integers(0, 2, (30, 9)).astype(float),
        "spearman": generator.normal(size=(30, 2)),
        "wer": np.stack([generator.integers(0, 5, 30), generator.integers(5, 9, 30)], axis=1).astype(float),
        "miou": generator.integers(3, 9, (30, 6)).astype(float),
    }
    counts = generator.multinomial(30, np.full(30, 1 / 30), 5).astype(float)
    for name, part in rows.items():
        made = find_metric(name).value(part, counts)
        for draw, count in zip(made, counts, strict=True):
            assert draw == pytest.approx(value_of(name, np.repeat(part, count.astype(int), axis=0)))


class Said:
    """A model that says what it is told to; it is a TaskModel to those that ask it."""

    def __init__(self, said: Sequence[Any], part: Any = None) -> None:
        self.said, self._part = iter(said), part

    def answer(self, _: object) -> Any:
        return next(self.said)

    def part(self, _: object) -> Any:
        return self._part


def scored(name: str, said: Sequence[Any], samples: Sequence[Sample], part: Any = None) -> float:
    model: Any = Said(said, part)
    return score(model, samples, [find_metric(name)])[0].value


words = st.lists(st.sampled_from(["rain", "is", "not", "food"]), min_size=1, max_size=6).map(" ".join)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_errors_in_what_is_said_are_those_of_torchmetrics(pairs: list[tuple[str, str]]) -> None:
    pytest.importorskip("jiwer", reason="counts errors: pip install edgepress[metrics]")
    text = pytest.importorskip("torchmetrics.functional.text", reason="the oracle: torchmetrics")
    heard, said = [one for one, _ in pairs], [other for _, other in pairs]
    samples = [Sample(None, label, "s") for label in said]
    answers = [Transcription(one, ()) for one in heard]
    assert scored("wer", answers, samples) == pytest.approx(float(text.word_error_rate(heard, said)), abs=1e-6)
    assert scored("cer", answers, samples) == pytest.approx(float(text.char_error_rate(heard, said)), abs=1e-6)


def test_classes_of_pixels_are_scored_as_counted_by_hand() -> None:
    said = np.array([[0, 0, 1], [1, 1, 2]], np.int32)
    mask = np.array([[0, 1, 1], [1, 255, 0]], np.uint8)
    part = Segments(output="x", labels=("a", "b", "c"))
    # a: 1 right of {2 said, 2 labelled} → 1/3; b: 2 of {2 said where it is labelled, 3} → 2/3; c: 0 of 1
    value = scored("miou", [Segmentation(said, ())], [Sample(None, mask, "s")], part)
    assert value == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)
    with pytest.raises(InputError, match="its mask has"):
        scored("miou", [Segmentation(said, ())], [Sample(None, mask[:1], "s")], part)
    with pytest.raises(InputError, match="has no mask"):
        scored("miou", [Segmentation(said, ())], [Sample(None, None, "s")], part)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB"])
def test_a_mask_has_numbers_of_classes_whatever_their_colours(mode: str, tmp_path: Path) -> None:
    from PIL import Image

    numbers = np.array([[0, 1, 1], [1, 0, 1]], np.uint8)
    image = Image.fromarray(numbers)
    if mode == "P":
        image.putpalette([90, 0, 0, 0, 200, 0])
    elif mode == "1":
        image = Image.fromarray(numbers.astype(bool))
    elif mode == "RGB":
        image = image.convert("RGB")
    assert image.mode == mode
    image.save(tmp_path / "mask.png")
    assert Image.open(tmp_path / "mask.png").mode == mode
    part = Segments(output="x", labels=("a", "b"))
    assert (
        scored("miou", [Segmentation(numbers.astype(np.int64), ())], [Sample(None, tmp_path / "mask.png")], part) == 1
    )


def test_a_mask_of_colours_is_none() -> None:
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 1] = (0, 9, 0)
    part = Segments(output="x", labels=("a", "b"))
    with pytest.raises(InputError, match="s: the mask has colours, and no palette"):
        scored("miou", [Segmentation(np.zeros((2, 3), np.int64), ())], [Sample(None, colours, "s")], part)


class Vectors(Said):
    """An embedder of texts that are their own vectors."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([[float(number) for number in text.split()] for text in texts])


def test_pairs_are_ranked_and_correlated_as_by_hand() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(20, 2, 4))
    texts = [tuple(" ".join(map(repr, side)) for side in pair.tolist()) for pair in vectors]
    labels = generator.integers(0, 6, 20)
    samples = [Sample(pair, str(label), "s") for pair, label in zip(texts, labels, strict=True)]
    model: Any = Vectors([])
    found = {one.metric: one.value for one in score(model, samples, [find_metric(name) for name in
             ("spearman", "recall-at-1", "recall-at-10", "ndcg-at-10")])}  # fmt: skip
    normal = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    cosines = normal[:, 0] @ normal[:, 1].T
    assert found["spearman"] == pytest.approx(stats.spearmanr(np.diag(cosines), labels).statistic)
    ranks = [1 + sum(other > row[index] for other in row) for index, row in enumerate(cosines)]
    assert found["recall-at-1"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert found["recall-at-10"] == pytest.approx(np.mean([rank <= 10 for rank in ranks])) != 1
    gains = [1 / np.log2(1 + rank) if rank <= 10 else 0 for rank in ranks]
    assert found["ndcg-at-10"] == pytest.approx(np.mean(gains))
    alike: Any = type("Alike", (Vectors,), {"embed": lambda _, texts: np.ones((len(texts), 3))})([])
    assert score(alike, samples, [find_metric("recall-at-1")])[0].value == 0  # vectors all alike find nothing


@pytest.mark.filterwarnings("error")
def test_a_score_that_is_no_number_is_an_error() -> None:
    pytest.importorskip("scipy.stats")
    model: Any = Vectors([])
    pairs = [("1 0", "1 0"), ("1 0", "0 1"), ("1 1", "0 1")]
    (one,) = score(model, [Sample(pair, n, "s") for n, pair in enumerate(pairs)], [find_metric("spearman")])
    assert one.value == -0.5  # of all three; draws of one pair alone mean nothing, and are left out without a word
    with pytest.raises(
        InputError, match=r"spearman is nan for these 3 samples: their labels, or all answers, are alik"
    ):
        score(model, [Sample(pair, 1, "s") for pair in pairs], [find_metric("spearman")])


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator, held = np.random.default_rng(5), 0
    model, metric = classifier(), [find_metric("top1")]
    for _ in range(40):
        right = generator.random(120) < 0.8
        logits = np.where(right[:, None], np.eye(len(LABELS))[0], np.eye(len(LABELS))[1]).astype(np.float32)
        (one,) = score(model, samples_of(logits, ["a"] * 120), metric)
        held += one.interval[0] <= 0.8 <= one.interval[1]
    assert held >= 33  # of 40, where 38 are expected; fewer by chance once in some hundred


def test_the_difference_is_of_the_same_samples_and_says_which_answers_changed() -> None:
    generator = np.random.default_rng(6)
    logits = generator.normal(size=(200, len(LABELS))).astype(np.float32)
    samples = samples_of(logits, [LABELS[index] for index in logits.argmax(axis=1)])
    (same,) = score(classifier(), samples, [find_metric("top1")], reference=classifier())
    assert (same.value, same.difference, same.changed) == (1.0, 0.0, 0.0)
    assert same.difference_interval == (0.0, 0.0)
    noisy = classifier(np.eye(len(LABELS), dtype=np.float32) + generator.normal(0, 0.3, (7, 7)).astype(np.float32))
    (one,) = score(noisy, samples, [find_metric("top1")], reference=classifier())
    assert one.changed is not None
    assert one.difference == pytest.approx(one.value - 1)
    assert one.changed == pytest.approx(1 - one.value)  # the reference is right everywhere
    assert one.difference_interval is not None
    assert one.difference_interval[0] < one.difference_interval[1] < 0
    shown = format_scores([one]).splitlines()
    assert shown[2].split()[:3] == ["top1", "200", f"{one.value:.4f}"]
    assert shown[2].endswith(f"{one.changed:.2%}")
    assert one.to_json()["reference"] == 1.0
    assert DRAWS >= 1000


def test_a_function_of_the_users_is_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metric.py").write_text(
        "def share_of_a(answers, labels):\n"
        "    return sum(answer[0].label == label == 'a' for answer, label in zip(answers, labels)) / len(labels)\n"
        "def fails(answers, labels):\n    return answers[0].label\n"
        "def text(answers, labels):\n    return 'good'\n"
    )
    monkeypatch.chdir(tmp_path)
    said = [(Label(label, 1.0, 0),) for label in "aabc"]
    samples = [Sample(None, label, "s") for label in "abbc"]
    model, reference = Said(said), Said([*said[:3], said[0]])
    (one,) = score(model, samples, [find_metric("own_metric:share_of_a")], reference=reference)
    assert (one.value, one.reference, one.changed) == (0.25, 0.25, 0.25)
    with pytest.raises(InputError, match="cannot be imported"):
        find_metric("own_metric:missing")
    with pytest.raises(InputError, match=r"own_metric:fails failed at .*own_metric.py:4: AttributeError: "):
        score(Said(said), samples, [find_metric("own_metric:fails")])
    with pytest.raises(InputError, match="own_metric:text gave str; a metric takes answers and labels"):
        score(Said(said), samples, [find_metric("own_metric:text")])


@pytest.mark.parametrize(
    ("label", "said"),
    [(None, "the label None"), ("z", "has the label 'z'; the model has 7: a, b"), (7, "label 7"), (True, "label True")],
)
def test_labels_that_mean_nothing_are_refused(label: object, said: str) -> None:
    samples = samples_of(np.zeros((2, 7), np.float32), ["a", label])
    with pytest.raises(InputError, match=f"s1 has .*{said.removeprefix('has ')}" if "the label" in said else said):
        score(classifier(), samples, [find_metric("top1")])


def test_labels_may_be_numbers() -> None:
    logits = np.eye(len(LABELS), dtype=np.float32)[[3, 4, 5]]
    (one,) = score(classifier(), samples_of(logits, [3, "4", np.int64(0).item()]), [find_metric("top1")])
    assert one.value == pytest.approx(2 / 3)


def test_metrics_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="no metric 'luck'; there are"):
        find_metric("luck")
    with pytest.raises(InputError, match="samples have no labels, which"):
        metrics_of("text-classification", labelled=False)
    with pytest.raises(InputError, match="no metric of depth-estimation"):
        metrics_of("depth-estimation", labelled=True)
    with pytest.raises(InputError, match="wer is a metric of automatic-speech-recognition, and the bundle"):
        chosen_metrics(["wer"], "depth-estimation", labelled=True)
    assert [one.name for one in chosen_metrics([], "semantic-segmentation", labelled=True)] == ["miou"]
    with pytest.raises(InputError, match="no samples"):
        score(classifier(), [], [find_metric("top1")])
    model: Any = Vectors([])
    with pytest.raises(InputError, match="a pair of texts"):
        score(model, [Sample("alone", "1", "s")], [find_metric("spearman")])


def test_every_metric_has_its_name_and_tasks_that_there_are() -> None:
    for name in metric_names():
        metric = find_metric(name)
        assert metric.name == name
        assert metric.tasks
        assert metric.tasks <= {*task_names(), *TEXT_TASKS}


def test_samples_are_spread_over_all() -> None:
    samples = of_list([Sample(index) for index in range(1000)], "x")
    chosen = [int(str(sample.value)) for sample in spread_over(samples, 50)]
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 50
    assert chosen[-1] > 900
    assert len(spread_over(samples, None)) == len(spread_over(samples, 5000)) == 1000


def test_speech_is_scored_with_a_model() -> None:
    pytest.importorskip("jiwer", reason="counts errors: pip install edgepress[metrics]")
    vocabulary = ("_", "|", "a", "b")

    def compute(inputs: Arrays) -> Arrays:
        numbers = np.asarray(inputs["x"]).astype(int)[0]
        return {"logits": np.eye(4, dtype=np.float32)[numbers][None]}

    from edgepress.tasks.sound import Sound

    model: TaskModel = opened(
        "automatic-speech-recognition",
        {"x": ("float32", ("batch", "samples"))},
        {"logits": ("batch", "samples", 4)},
        compute,
        sound=Sound(input="x", rate=8000),
        answers=Answers(transcript=Transcript(output="logits", vocabulary=vocabulary, blank=0)),
    )
    samples = [Sample(np.array([2, 1, 3], np.float32), "a b", "s"), Sample(np.array([2, 3], np.float32), "a", "t")]
    found = {one.metric: one.value for one in score(model, samples, metrics_of(model.task.name, labelled=True))}
    assert found == {"wer": pytest.approx(1 / 3), "cer": pytest.approx(1 / 4)}
