"""Objects, classes of pixels, depth, features and texts of images: held against transformers' and torch's own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from task_models import Arrays, opened
from tokenizers import Tokenizer, models, pre_tokenizers

from edgepress.errors import InputError
from edgepress.exporter.doors.processing.read import read_processing
from edgepress.processing.boxes import detections_of, overlap, without_overlaps
from edgepress.processing.maps import best_class, resize_map
from edgepress.runtime.tasks.depth_estimation import DepthEstimator
from edgepress.runtime.tasks.image_feature_extraction import ImageEmbedder
from edgepress.runtime.tasks.kinds import open_task
from edgepress.runtime.tasks.object_detection import Detector
from edgepress.runtime.tasks.semantic_segmentation import Segmenter
from edgepress.runtime.tasks.zero_shot_image_classification import ZeroShotClassifier
from edgepress.tasks.answers import Answers, Boxes, Depth, Embedding, Matches, Segments
from edgepress.tasks.images import Images, Resize
from edgepress.tasks.task import Edge, Task, check_task
from edgepress.tasks.text import Text

pytest.importorskip("PIL", reason="images are resized by Pillow")
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
SHAPE = ("batch", 3, "height", "width")
QUERIES = 12
LABELS = ("cat", "dog", "cow")


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_maps_are_resized_as_torch_does(h: int, w: int, height: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(h, w)).astype(np.float32)
    for kernel in ("bilinear", "bicubic"):
        wanted = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], (height, width), mode=kernel)
        np.testing.assert_allclose(resize_map(values, height, width, kernel), wanted[0, 0].numpy(), atol=1e-5)


def test_classes_of_pixels_are_those_of_resized_maps() -> None:
    logits = np.random.default_rng(1).normal(size=(5, 6, 7)).astype(np.float32)
    resized = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (33, 21), mode="bilinear")[0].numpy()
    made = best_class(logits, 33, 21)
    ranked = np.sort(resized, axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-5  # where rounding decides, either is right
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(made[clear], resized.argmax(axis=0)[clear])


@pytest.mark.parametrize("name", ["DetrImageProcessorPil", "RTDetrImageProcessorPil"])
def test_objects_are_those_of_transformers(name: str) -> None:
    import transformers

    softmax = name.startswith("Detr")
    generator = np.random.default_rng(2)
    logits = generator.normal(0, 2, (1, QUERIES, 3 + softmax)).astype(np.float32)
    boxes = generator.uniform(0.1, 0.5, (1, QUERIES, 4)).astype(np.float32)
    outputs = type("Outputs", (), {"logits": torch.from_numpy(logits), "pred_boxes": torch.from_numpy(boxes)})()
    processor = getattr(transformers, name)()
    part = Boxes(output="l", boxes="b", labels=LABELS, scores="softmax" if softmax else "sigmoid", top=QUERIES)
    for threshold in (0.1, 0.5, 0.8):
        (wanted,) = processor.post_process_object_detection(outputs, threshold, [(40, 60)])
        made = detections_of(logits[0], boxes[0], part, image=(40, 60), made=(8, 8), threshold=threshold)
        order = np.argsort(-wanted["scores"].numpy(), kind="stable")
        assert [found.index for found in made] == wanted["labels"].numpy()[order].tolist()
        corners = [[found.left, found.top, found.right, found.bottom] for found in made]
        np.testing.assert_allclose(np.reshape(corners, (-1, 4)), wanted["boxes"].numpy()[order], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose([found.score for found in made], wanted["scores"].numpy()[order], atol=1e-6)


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4, st.integers(0, 1)), max_size=9), st.floats(0.1, 0.9))
@settings(max_examples=80, deadline=None)
def test_of_overlapping_boxes_the_surest_is_kept(raw: list[tuple[int, ...]], most: float) -> None:
    corners = np.array([[x, y, x + w + 1, y + h + 1] for x, y, w, h, _ in raw], np.float64).reshape(-1, 4)
    classes = np.array([kind for *_, kind in raw], np.int64)

    def shared(a: int, b: int) -> float:
        cells = [{(x, y) for x in range(*map(int, corners[i, [0, 2]])) for y in range(*map(int, corners[i, [1, 3]]))}
                 for i in (a, b)]  # fmt: skip
        return len(cells[0] & cells[1]) / len(cells[0] | cells[1])

    kept: list[int] = []
    for box in range(len(raw)):
        if all(classes[box] != classes[other] or shared(other, box) <= most for other in kept):
            kept.append(box)
    assert without_overlaps(corners, classes, most).tolist() == kept
    for box in range(1, len(raw)):
        assert overlap(corners[0], corners[box : box + 1])[0] == pytest.approx(shared(0, box))


def test_boxes_in_pixels_of_the_input_are_of_the_image() -> None:
    part = Boxes(output="l", boxes="b", labels=LABELS, scores="none", form="corners", unit="pixels")
    (found,) = detections_of(
        np.array([[0.1, 0.9, 0.2]]), np.array([[8.0, 4.0, 16.0, 8.0]]), part, image=(40, 60), made=(20, 30)
    )
    assert (found.label, found.left, found.top, found.right, found.bottom) == ("dog", 16, 8, 32, 16)


def image_model(name: str, output: str, shape: tuple[int | str, ...], compute: Any, **entries: Any) -> Any:
    images = Images(input="pixels", resize=Resize(fit="stretch", height=8, width=8), scale=1 / 255)
    return opened(
        name, {"pixels": ("float32", SHAPE)}, {output: shape}, compute, images=images, answers=Answers(**entries)
    )


def test_an_image_is_segmented_in_its_own_size() -> None:
    def halves(inputs: Arrays) -> Arrays:
        logits = np.zeros((len(inputs["pixels"]), 3, 2, 2), np.float32)
        logits[:, 1, :, 1] = 5  # the right half is a dog
        return {"logits": logits}

    part = Segments(output="logits", labels=LABELS)
    model = image_model("semantic-segmentation", "logits", ("batch", 3, "h", "w"), halves, segments=part)
    assert isinstance(model, Segmenter)
    made = model.segment(IMAGE)
    assert made.classes.shape == (40, 60)
    assert made.classes[:, 45:].min() == made.classes[:, 45:].max() == 1
    assert made.classes[:, :15].max() == 0
    assert [area.label for area in made.areas] == ["dog", "cat"]
    assert sum(area.share for area in made.areas) == pytest.approx(1)
    assert (model.answer(IMAGE).classes == made.classes).all()


def test_depth_has_the_size_of_the_image() -> None:
    def plane(inputs: Arrays) -> Arrays:
        return {"predicted_depth": np.full((len(inputs["pixels"]), 4, 5), 2.5, np.float32)}

    part = Depth(output="predicted_depth")
    model = image_model("depth-estimation", "predicted_depth", ("batch", 4, 5), plane, depth=part)
    assert isinstance(model, DepthEstimator)
    np.testing.assert_allclose(model.depth(IMAGE), np.full((40, 60), 2.5), atol=1e-5)


def test_images_are_embedded() -> None:
    def mean(inputs: Arrays) -> Arrays:
        return {"vectors": np.asarray(inputs["pixels"], np.float32).mean(axis=(2, 3))}

    part = Embedding(output="vectors", normalize=True)
    model = image_model("image-feature-extraction", "vectors", ("batch", 3), mean, embedding=part)
    assert isinstance(model, ImageEmbedder)
    made = model.embed([IMAGE, IMAGE[:10]])
    assert made.shape == (2, 3)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(model.answer(IMAGE), made[0])


def test_an_image_is_matched_with_labels(tmp_path: Path) -> None:
    library = Tokenizer(models.WordLevel({"[PAD]": 0, "photo": 1, "cat": 2, "dog": 3}, unk_token="photo"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(tmp_path / "tokenizer.json"))

    def compute(inputs: Arrays) -> Arrays:
        dogs = (np.asarray(inputs["ids"]) == 3).any(axis=1)
        return {"logits_per_image": np.where(dogs, 2, 0).astype(np.float32)[None]}

    model = opened(
        "zero-shot-image-classification",
        {"pixels": ("float32", SHAPE), "ids": ("int64", ("texts", "tokens"))},
        {"logits_per_image": ("batch", "texts")},
        compute,
        tmp_path,
        images=Images(input="pixels"),
        text=Text(ids="ids", longest=9),
        answers=Answers(matches=Matches(output="logits_per_image")),
    )
    assert isinstance(model, ZeroShotClassifier)
    best, second = model.classify(IMAGE, ["cat", "dog"])
    assert (best.label, best.index, second.label) == ("dog", 1, "cat")
    assert best.score == pytest.approx(np.exp(2) / (1 + np.exp(2)))
    assert model.answer((IMAGE, ["cat", "dog"])) == (best, second)
    for wrong, said in ((("no place",), "needs {}"), ((None,), "list of labels")):
        with pytest.raises(InputError, match=said):
            model.classify(IMAGE, [] if said == "list of labels" else ["cat"], template=wrong[0])
    with pytest.raises(InputError, match="takes an image and labels"):
        model.answer(IMAGE)


def saved(folder: Path, processor: str, config: dict[str, Any], **changes: Any) -> Path:
    import transformers

    getattr(transformers, processor)(**changes).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def vision_task(name: str, outputs: dict[str, tuple[int | str, ...]]) -> Task:
    edges = tuple(Edge(edge, "float32", shape) for edge, shape in outputs.items())
    return Task(name, (Edge("pixel_values", "float32", SHAPE),), edges)


@pytest.mark.parametrize("more", [0, 1])
def test_a_detector_is_read_and_detects(tmp_path: Path, more: int) -> None:
    config = {"id2label": {"0": "cat", "1": "dog", "2": "cow"}}
    folder = saved(tmp_path, "DetrImageProcessorPil", config, size={"shortest_edge": 24, "longest_edge": 40})
    outputs = {"logits": ("batch", QUERIES, 3 + more), "pred_boxes": ("batch", QUERIES, 4)}
    task = read_processing(folder, vision_task("object-detection", outputs)).task
    assert task.answers is not None
    assert task.answers.boxes is not None
    assert task.answers.boxes.scores == ("softmax" if more else "sigmoid")

    def compute(_: Arrays) -> Arrays:
        logits = np.full((1, QUERIES, 3 + more), -9, np.float32)
        logits[0, 3, 1] = 9
        return {"logits": logits, "pred_boxes": np.full((1, QUERIES, 4), 0.5, np.float32)}

    model = open_task(task, compute, folder)
    assert isinstance(model, Detector)
    found = model.detect(IMAGE)[0]
    assert (found.label, found.left, found.top, found.right, found.bottom) == ("dog", 15, 10, 45, 30)
    wrong = vision_task("object-detection", {**outputs, "logits": ("batch", QUERIES, 9)})
    with pytest.raises(InputError, match="3 names"):
        read_processing(folder, wrong)


def test_other_vision_tasks_are_read(tmp_path: Path) -> None:
    config: dict[str, Any] = {"id2label": {"0": "sky", "1": "sea"}}
    folder = saved(tmp_path, "SegformerImageProcessorPil", config, size={"height": 32, "width": 32})

    def answers(name: str, outputs: dict[str, tuple[int | str, ...]]) -> Answers:
        made = read_processing(folder, vision_task(name, outputs)).task.answers
        assert made is not None
        return made

    logits: dict[str, tuple[int | str, ...]] = {"logits": ("batch", 2, 8, 8)}
    assert answers("semantic-segmentation", logits).segments == Segments(output="logits", labels=("sky", "sea"))
    depth = answers("depth-estimation", {"predicted_depth": ("batch", 8, 8), "other": ("batch",)})
    assert depth.depth == Depth(output="predicted_depth")
    both: dict[str, tuple[int | str, ...]] = {"last_hidden_state": ("batch", 5, 7), "pooler_output": ("batch", 7)}
    assert answers("image-feature-extraction", both).embedding == Embedding(output="pooler_output")
    alone = read_processing(folder, vision_task("image-feature-extraction", {"last_hidden_state": ("batch", 5, 7)}))
    assert alone.task.answers is not None
    assert alone.task.answers.embedding == Embedding(output="last_hidden_state", pooling="cls")
    assert "first token" in alone.notes[0]
    with pytest.raises(InputError, match="no map of each class"):
        answers("semantic-segmentation", {"logits": ("batch", 100, 3)})


def test_a_clip_is_read(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    saved(tmp_path, "CLIPImageProcessorPil", {"model_type": "clip", "text_config": {"max_position_embeddings": 9}},
          size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})  # fmt: skip
    words = ["!", "a", "a</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(tmp_path)
    edges = (
        Edge("input_ids", "int64", ("texts", "tokens")),
        Edge("pixel_values", "float32", ("images", 3, 8, 8)),
        Edge("attention_mask", "int64", ("texts", "tokens")),
    )
    outputs = (Edge("logits_per_image", "float32", ("images", "texts")),)
    task = read_processing(tmp_path, Task("zero-shot-image-classification", edges, outputs)).task
    assert task.text is not None
    assert task.text.longest == 9
    assert task.images is not None
    assert task.answers == Answers(matches=Matches(output="logits_per_image"))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"boxes": Boxes(output="logits", boxes="missing", labels=LABELS)}, "from the output missing"),
        ({"boxes": Boxes(output="logits", boxes="logits", labels=LABELS)}, "one class is for no object"),
        ({"segments": Segments(output="logits", labels=LABELS[:2])}, "2 labels, and the output logits has 3"),
    ],
)
def test_answers_that_do_not_fit_the_graph_are_refused(part: dict[str, Any], said: str) -> None:
    task = vision_task("object-detection", {"logits": ("batch", 3, 3)})
    with pytest.raises(ValueError, match=said):
        check_task(replace(task, answers=Answers(**part)))


def test_sizes_of_maps_do_not_matter_to_a_flat_one() -> None:
    flat: NDArray[np.float32] = np.full((3, 5), 7, np.float32)
    np.testing.assert_allclose(resize_map(flat, 50, 2, "bicubic"), np.full((50, 2), 7), atol=1e-5)
