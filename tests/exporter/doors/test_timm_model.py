"""Models of timm: what the model computes is what its graph computes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from timm_library import timm_or_skip

from edgepress.errors import InputError
from edgepress.exporter.doors.kinds import Options, find_door
from edgepress.exporter.doors.ways.timm_model import open_model, recognizes
from edgepress.sessions import open_on_cpu
from edgepress.tasks.task import Edge

NAME, CLASSES, SIZE = "test_resnet", 7, 96


@pytest.fixture(scope="module")
def timm() -> Any:
    return timm_or_skip()


@pytest.fixture
def folder(tmp_path: Path, timm: Any) -> Path:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model(NAME, num_classes=CLASSES).state_dict(), tmp_path / "model.safetensors")
    said = {"input_size": [3, SIZE, SIZE], "crop_pct": 0.9, "interpolation": "bilinear"}
    config = {"architecture": NAME, "num_classes": CLASSES, "pretrained_cfg": said}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_classifier_with_what_its_config_says_of_images(folder: Path, timm: Any, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    (tmp_path / "work").mkdir()
    traced = open_model(str(folder), Options(), tmp_path / "work")
    assert traced.task.outputs == (Edge("logits", "float32", ("batch", CLASSES)),)
    assert traced.task.images is not None
    assert traced.task.images.crop is not None
    assert (traced.task.images.crop.height, traced.task.images.crop.width) == (SIZE, SIZE)
    model = timm.create_model(NAME, num_classes=CLASSES).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    feed = next(traced.examples(3))
    with torch.no_grad():
        expected = model(torch.from_numpy(np.array(feed["x"]))).numpy()
    (found,) = open_on_cpu(traced.file).run(None, dict(feed))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_names_and_folders_of_timm_are_known_without_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": NAME, "num_classes": CLASSES}))
    door = find_door(str(tmp_path))
    assert door is not None
    assert door.name == "timm"
    assert recognizes("timm:resnet18")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    assert not recognizes(str(tmp_path))


def test_what_a_model_of_timm_is_not_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are for image-classification or image-feature-extraction"):
        open_model("timm:resnet18", Options(task="fill-mask"), tmp_path)
    with pytest.raises(InputError, match="has random weights; leave it out"):
        open_model("timm:resnet18", Options(revision="main"), tmp_path)
