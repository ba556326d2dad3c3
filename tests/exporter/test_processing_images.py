"""Image processors of transformers as data: held against what they compute themselves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from timm_library import timm_or_skip

from edgepress.errors import InputError
from edgepress.exporter.doors.processing.images import open_processor, read_images
from edgepress.exporter.doors.processing.read import read_processing
from edgepress.exporter.doors.processing.timm import read_timm
from edgepress.processing.images import image_feed
from edgepress.tasks.images import Crop
from edgepress.tasks.task import Edge, Task

pytest.importorskip("PIL", reason="images are decoded and resized by Pillow")

SQUARE = {"height": 32, "width": 32}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViTImageProcessorPil": {"size": {"height": 32, "width": 48}},
    "DeiTImageProcessorPil": {"size": {"height": 40, "width": 40}, "crop_size": SQUARE},
    "CLIPImageProcessorPil": {"size": {"shortest_edge": 33}, "crop_size": SQUARE},
    "SiglipImageProcessorPil": {"size": SQUARE},
    "ConvNextImageProcessorPil": {"size": {"shortest_edge": 32}, "crop_pct": 0.875},
    "EfficientNetImageProcessorPil": {"size": SQUARE, "rescale_offset": True},
    "MobileNetV1ImageProcessorPil": {"size": {"shortest_edge": 40}, "crop_size": SQUARE},
    "MobileNetV2ImageProcessorPil": {"size": {"shortest_edge": 40}, "crop_size": SQUARE},
    "MobileViTImageProcessorPil": {"size": {"shortest_edge": 40}, "crop_size": SQUARE},
    "LevitImageProcessorPil": {"size": {"shortest_edge": 32}, "crop_size": SQUARE},
    "PoolFormerImageProcessorPil": {"size": {"shortest_edge": 32}, "crop_size": SQUARE},
    "BeitImageProcessorPil": {"size": SQUARE},
    "SegformerImageProcessorPil": {"size": SQUARE},
    "BitImageProcessorPil": {"size": {"shortest_edge": 40}, "crop_size": SQUARE},
    "DPTImageProcessorPil": {"size": {"height": 42, "width": 56}, "ensure_multiple_of": 14, "keep_aspect_ratio": True},
    "GLPNImageProcessorPil": {},
    "DetrImageProcessorPil": {"size": {"shortest_edge": 60, "longest_edge": 100}},
    "YolosImageProcessorPil": {"size": {"shortest_edge": 60, "longest_edge": 100}},
    "RTDetrImageProcessorPil": {"size": SQUARE},
}


def image_task(*more: str, shape: tuple[int | str, ...] = ("batch", 3, "height", "width")) -> Task:
    masks = tuple(Edge(name, "int64", ("batch", "height", "width")) for name in more)
    edges = (Edge("pixel_values", "float32", shape), *masks)
    return Task("image-classification", edges, (Edge("logits", "float32", ("batch", 10)),))


def saved(folder: Path, name: str, **settings: object) -> Path:
    import transformers

    getattr(transformers, name)(**settings).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_as_data_makes_what_it_makes(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, name, **PROCESSORS[name])
    images = read_images(folder, image_task())
    processor = open_processor(folder)
    from PIL import Image

    generator = np.random.default_rng(7)
    for height, width in ((51, 77), (120, 65), (33, 33)):  # other sizes than those that were tried
        image = generator.integers(0, 256, (height, width, 3), np.uint8)
        wanted = processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"]
        made = image_feed([image], images)["pixel_values"]
        assert made.shape == wanted.shape
        assert np.abs(made - wanted).max() < 1e-5


@pytest.mark.parametrize(
    "config",
    [
        {"crop_pct": 0.875, "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)},
        {"crop_pct": 0.9, "interpolation": "bilinear", "crop_mode": "center"},
        {"crop_pct": 1.0, "crop_mode": "squash"},
    ],
)
def test_timms_configs_are_followed_as_timm_does(config: dict[str, Any]) -> None:
    timm_data = timm_or_skip().data
    from PIL import Image

    full = {"input_size": [3, 33, 33], "interpolation": "bicubic", **config}
    images = read_timm(full, image_task())
    oracle = timm_data.create_transform(**timm_data.resolve_data_config(pretrained_cfg=full))
    for height, width in ((51, 77), (120, 65), (38, 38)):
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        wanted = oracle(Image.fromarray(image)).numpy()
        np.testing.assert_allclose(image_feed([image], images)["pixel_values"][0], wanted, atol=1e-5)


def test_a_folder_of_timm_is_read_with_its_labels(tmp_path: Path) -> None:
    labels = [f"kind {number}" for number in range(10)]
    config = {"architecture": "x", "label_names": labels, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    task = read_processing(tmp_path, image_task()).task
    assert task.images is not None
    assert task.images.crop == Crop(height=32, width=32, half="even")
    assert task.answers is not None
    assert task.answers.classes is not None
    assert task.answers.classes.labels == tuple(labels)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"input_size": [3, 32, 33]}, "an edge that is not said"),
        ({"input_size": [4, 32, 32]}, "4 channels"),
        ({"input_size": [3, 32]}, "input_size"),
        ({"input_size": [3, 32, 32], "crop_mode": "border"}, "crop_mode"),
        ({"input_size": [3, 32, 32], "crop_pct": 0}, "crop_pct"),
    ],
)
def test_timms_configs_that_cannot_be_followed_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_timm(config, image_task())


def test_a_batch_is_padded_with_a_mask_as_detr_does(tmp_path: Path) -> None:
    folder = saved(tmp_path, "DetrImageProcessorPil", **PROCESSORS["DetrImageProcessorPil"])
    images = read_images(folder, image_task("pixel_mask"))
    generator = np.random.default_rng(8)
    batch = [generator.integers(0, 256, size, np.uint8) for size in ((70, 60, 3), (40, 90, 3))]
    wanted = open_processor(folder)(images=batch, return_tensors="np", input_data_format="channels_last")
    made = image_feed(batch, images)
    assert np.abs(made["pixel_values"] - wanted["pixel_values"]).max() < 1e-5
    np.testing.assert_array_equal(made["pixel_mask"], wanted["pixel_mask"])
    with pytest.raises(InputError, match="different sizes"):
        image_feed(batch, replace(images, mask=None))


def test_a_processor_that_does_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ImageGPTImageProcessor"):
        read_images(saved(tmp_path, "ImageGPTImageProcessorPil", clusters=[[0, 0, 0], [1, 1, 1]]), image_task())


def test_without_a_processors_file_the_error_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no preprocessor_config.json"):
        read_images(tmp_path, image_task())
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchProcessor"}')
    with pytest.raises(InputError, match="cannot be opened"):
        read_images(tmp_path, image_task())
