"""Images from files and arrays to the input of a graph, and the labels that come back."""

import io
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_models import Arrays, opened

from edgepress.errors import InputError
from edgepress.processing.images import MOST_PIXELS, image_feed, process_image, read_image, target_size
from edgepress.processing.scores import scores_of
from edgepress.runtime.tasks.image_classification import ImageClassifier
from edgepress.tasks.answers import Answers, Classes
from edgepress.tasks.images import Crop, Images, Pad, Resize, check_images
from edgepress.tasks.task import Edge, Task, check_task

pytest.importorskip("PIL", reason="images are decoded and resized by Pillow")
from PIL import Image

STD = (0.5, 0.25, 0.125)
IMAGES = Images(input="pixel_values", scale=1 / 255, mean=(0.5, 0.5, 0.5), std=STD)
CLASSES = Classes(output="logits", labels=("red", "green", "blue"), top=2)
COLOURS = np.array([[200, 10, 20], [30, 220, 10]], np.uint8)


def flat(colour: np.ndarray, height: int = 8, width: int = 8) -> np.ndarray:
    return np.broadcast_to(colour, (height, width, 3)).astype(np.uint8)


def mean_of_channels(inputs: Arrays) -> Arrays:
    return {"logits": np.asarray(inputs["pixel_values"], np.float32).mean(axis=(2, 3))}


def classifier(classes: Classes = CLASSES, images: Images | None = IMAGES) -> ImageClassifier:
    shape = ("batch", 3, "height", "width")
    model = opened(
        "image-classification",
        {"pixel_values": ("float32", shape)},
        {"logits": ("batch", 3)},
        mean_of_channels,
        images=images,
        answers=Answers(classes=classes),
    )
    assert isinstance(model, ImageClassifier)
    return model


def png(image: np.ndarray | Image.Image, **settings: object) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, "PNG", **settings)
    return file.getvalue()


def test_an_image_is_classified_from_a_file_bytes_pillow_and_an_array(tmp_path: Path) -> None:
    image = flat(COLOURS[0])
    (tmp_path / "red.png").write_bytes(png(image))
    model = classifier()
    logits = (COLOURS[0] / 255 - 0.5) / np.array(STD)
    expected = np.exp(logits) / np.exp(logits).sum()
    sources = (tmp_path / "red.png", str(tmp_path / "red.png"), png(image), Image.fromarray(image), image)
    for source in sources:
        best, second = model.classify(source)
        assert (best.label, best.index) == ("red", 0)
        assert best.score == pytest.approx(expected[0], rel=1e-5)
        assert second.label == ("green", "blue")[int(expected[2] > expected[1])]
    assert model.answer(image) == model.classify(image)
    assert len(model.classify(image, top=3)) == 3


def test_a_batch_answers_as_its_images_do_one_by_one() -> None:
    model, images = classifier(), [flat(colour) for colour in COLOURS]
    assert model.classify_all(images) == [model.classify(image) for image in images]
    assert model.classify_all([]) == []


def test_with_a_threshold_any_number_of_labels_is_told() -> None:
    model = classifier(replace(CLASSES, scores="sigmoid", threshold=0.5))
    assert [label.label for label in model.classify(flat(np.array([250, 250, 2])))] == ["green", "red"]
    assert model.classify(flat(np.array([0, 0, 0]))) == ()


def test_exif_turns_an_image_upright_and_transparency_is_left_out() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[0] = 255  # the first row as stored, the last column once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_image(png(image, exif=exif))
    assert turned.shape == (6, 4, 3)
    assert turned[:, -1].min() == 255
    assert turned[:, :-1].max() == 0
    with_alpha = np.dstack([image, np.full((4, 6), 7, np.uint8)])
    np.testing.assert_array_equal(read_image(with_alpha), image)
    np.testing.assert_array_equal(read_image(png(with_alpha)), image)


def test_grey_and_colour_become_each_other_as_pillow_does_it() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(read_image(grey), np.dstack([grey] * 3))
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    luma = image @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(read_image(image, "L")[:, :, 0] - luma).max() <= 1
    np.testing.assert_array_equal(read_image(image, "L"), read_image(png(image), "L"))


def test_channel_order_layout_and_type_are_the_tasks() -> None:
    image = np.random.default_rng(1).integers(0, 256, (5, 4, 3), np.uint8)
    images = Images(input="bytes", layout="NHWC", order="BGR")
    feed = image_feed([image], images, "uint8")
    assert feed["bytes"].dtype == np.uint8
    np.testing.assert_array_equal(feed["bytes"][0], image[:, :, ::-1])


@pytest.mark.parametrize("place", ["start", "middle"])
def test_padding_stands_where_the_task_says(place: str) -> None:
    pad = Pad(height=8, width=9, fill=0.25, place=place)
    made, size = process_image(flat(np.array([255, 255, 255]), 5, 6), Images(input="x", scale=1 / 255, pad=pad))
    expected = np.full((3, 8, 9), 0.25)
    top, left = (1, 1) if place == "middle" else (0, 0)
    expected[:, top : top + 5, left : left + 6] = 1
    np.testing.assert_array_equal(made, expected)
    assert size == (5, 6)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 300), st.integers(1, 400), st.integers(1, 32))
@settings(max_examples=200, deadline=None)
def test_sizes_keep_what_their_fit_promises(height: int, width: int, edge: int, more: int, of: int) -> None:
    sides = (min(height, width), max(height, width))
    for longest in (None, edge + more):
        resize = Resize(fit="shortest", height=edge, width=edge, longest=longest)
        try:
            made = target_size(height, width, resize)
        except InputError:
            assert longest is not None  # an edge of less than a pixel
            continue
        assert (min(made) == edge) or (longest is not None and min(made) < edge)
        # as in DETR's processor: an image whose shorter edge is right once rounded stays as it is
        assert longest is None or max(made) <= longest or made == (height, width)
        assert (made[0] <= made[1]) == (height <= width) or made[0] == made[1]
        if longest is None:
            assert max(made) == edge * sides[1] // sides[0] or abs(max(made) - edge * sides[1] / sides[0]) < 1
    inside = Resize(fit="inside", height=edge, width=more)
    if min(int(height * min(edge / height, more / width)), int(width * min(edge / height, more / width))) > 0:
        made = target_size(height, width, inside)
        assert made[0] <= edge
        assert made[1] <= more
    if min(height, width) >= of:
        made = target_size(height, width, Resize(fit="down", height=1, width=1, multiple_of=of))
        assert all(size % of == 0 and 0 <= full - size < of for size, full in zip(made, (height, width), strict=True))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_a_crop_is_the_middle_or_all_with_zeros_around(height: int, width: int, rows: int, columns: int) -> None:
    image = np.arange(1, height * width + 1, dtype=np.uint16).reshape(height, width) % 255 + 1
    image = np.repeat(image.astype(np.uint8)[:, :, None], 3, axis=2)
    for half in ("down", "even"):
        crop = Crop(height=rows, width=columns, half=half)
        made, _ = process_image(image, Images(input="x", crop=crop, layout="NHWC"))
        assert made.shape == (rows, columns, 3)
        kept = (min(rows, height), min(columns, width))
        assert int((made[:, :, 0] > 0).sum()) == kept[0] * kept[1]
        borders = [(min(rows, height), rows), (min(columns, width), columns)]
        seen = np.argwhere(made[:, :, 0] > 0)
        for (size, whole), first in zip(borders, seen.min(axis=0), strict=True):
            assert abs(2 * first - (whole - size)) <= 1


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 × 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"no image at all", "no image that Pillow can read"),
        (b"", "no image that Pillow can read"),
        (png(np.random.default_rng(2).integers(0, 256, (40, 40, 3), np.uint8))[:900], "cannot be decoded"),
        (bomb(), "pixels that are read"),
        (png(Image.fromarray(np.full((3, 3), 40_000, np.uint16))), "more than 8 bits"),
        (np.zeros((4, 4, 3), np.float32), "array of float32"),
        (np.zeros((4, 4, 2), np.uint8), r"1, 3 or 4"),
        (np.zeros((4, 0, 3), np.uint8), "has the shape"),
        (np.zeros((1, 4, 4, 3), np.uint8), "has the shape"),
        (Path("nowhere.png"), "cannot be read"),
        (5, "not int"),
    ],
)
def test_what_is_no_image_is_refused(source: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        classifier().classify(source)


def test_images_too_thin_to_resize_are_refused() -> None:
    thin = np.zeros((1, 2000, 3), np.uint8)
    with pytest.raises(InputError, match="resized to 0"):
        process_image(thin, Images(input="x", resize=Resize(fit="inside", height=10, width=10)))
    with pytest.raises(InputError, match=f"{MOST_PIXELS // MOST_PIXELS} × 2000"):
        process_image(thin, Images(input="x", resize=Resize(fit="shortest", height=4000, width=4000)))


def test_without_pillow_arrays_of_the_right_size_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert classifier().classify(flat(COLOURS[0]))[0].label == "red"
    with pytest.raises(InputError, match=r"pip install 'edgepress\[images\]'"):
        classifier().classify(b"a file")


def test_without_processing_only_arrays_can_be_given() -> None:
    model = classifier(images=None)
    assert model.run({"pixel_values": np.ones((1, 3, 2, 2), np.float32)})["logits"].tolist() == [[1, 1, 1]]
    with pytest.raises(InputError, match="says nothing of images"):
        model.classify(flat(COLOURS[0]))


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        ({}, "pixel_values is missing"),
        ({"pixel_values": np.ones((1, 3, 2, 2)), "more": np.ones(1)}, "more is no input"),
        ({"pixel_values": np.ones((3, 2, 2))}, "has the shape"),
        ({"pixel_values": np.ones((1, 4, 2, 2))}, "axis 1 has to be 3 and is 4"),
        ({"pixel_values": np.ones((1, 3, 2, 2), np.complex64)}, "complex64"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(feed: Arrays, said: str) -> None:
    with pytest.raises(InputError, match=said):
        classifier().run(feed)


def test_scores_do_not_overflow() -> None:
    logits = np.array([1e4, -1e4, 0.0], np.float32)
    np.testing.assert_array_equal(scores_of(logits, "softmax"), [1, 0, 0])
    np.testing.assert_array_equal(scores_of(logits, "sigmoid"), [1, 0, 0.5])
    np.testing.assert_array_equal(scores_of(logits, "none"), logits)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (Images(input="x", mean=(0.5,)), "mean has 1"),
        (Images(input="x", std=(1.0, 0.0, 1.0)), "std is 0"),
        (Images(input="x", mode="L", order="BGR"), "mode L has one"),
        (Images(input="x", resize=Resize(fit="shortest", height=3, width=4)), "one number"),
        (Images(input="x", pad=Pad(height=3)), "both or none"),
        (Images(input="x", mask="m", pad=Pad(place="middle")), "mask of padding"),
    ],
)
def test_images_that_disagree_with_themselves_are_refused(images: Images, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_images(images)


@pytest.mark.parametrize(
    ("images", "classes", "said"),
    [
        (replace(IMAGES, input="other"), CLASSES, "become the input other"),
        (replace(IMAGES, mode="L", mean=None, std=None), CLASSES, "1 channels"),
        (replace(IMAGES, resize=Resize(fit="stretch", height=8, width=9)), CLASSES, "9 pixels wide"),
        (IMAGES, replace(CLASSES, output="other"), "from the output other"),
        (IMAGES, replace(CLASSES, labels=("one", "two")), "2 labels"),
    ],
)
def test_a_task_that_does_not_fit_its_graph_is_refused(images: Images, classes: Classes, said: str) -> None:
    edges = (Edge("pixel_values", "float32", ("batch", 3, 8, 8)),), (Edge("logits", "float32", ("batch", 3)),)
    with pytest.raises(ValueError, match=said):
        check_task(Task("image-classification", *edges, images=images, answers=Answers(classes=classes)))
