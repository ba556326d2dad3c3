"""What is wrong with the input of a model that is no decoder is one clear error of every verb that reads it.

Exit code 2, a message that names the thing and what to do, and nothing half-written.
"""

import io
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress.cli import main
from edgepress.exporter import export

pytest.importorskip("PIL", reason="images are decoded by Pillow")

LABELS = ["red", "green", "blue"]
CLASSES = {"output": "logits", "labels": LABELS}
IMAGES = {
    "name": "image-classification",
    "images": {"input": "x", "resize": {"fit": "stretch", "height": 8, "width": 8}, "scale": 1 / 255},
    "answers": {"classes": CLASSES},
}
SOUND = {
    "name": "audio-classification",
    "sound": {"input": "x", "rate": 16_000, "length": 400},
    "answers": {"classes": CLASSES},
}


def saved(path: Path, shape: list[Any], axes: list[int], *before: onnx.NodeProto) -> Path:
    """A model that takes means over ``axes`` of x, or of what ``before`` makes of it, and tells 3 classes apart."""
    channels = shape[1] if len(shape) > 2 else 1
    weights = np.random.default_rng(0).standard_normal((channels, 3)).astype(np.float32)
    read = before[-1].output[0] if before else "x"
    nodes = [
        *before,
        helper.make_node("ReduceMean", [read, "axes"], ["means"], keepdims=int(len(shape) == 2)),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    constants = {"weights": weights, "axes": np.array(axes), "half": np.float32(0.5), "yes": np.array(True)}
    constants |= dict.fromkeys(("gain", "bias", "mean", "variance"), np.ones(channels, np.float32))
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def said(path: Path, entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps(entries))
    return path


def empty_wave() -> bytes:
    """A WAV file with a header and no sample."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(16_000)
    return file.getvalue()


def photos(folder: Path, labels: list[str], count: int) -> Path:
    from PIL import Image

    for index, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            colour = tuple(255 - number if channel == index else 0 for channel in range(3))
            Image.new("RGB", (10, 12), colour).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``images`` and ``sound``: bundles; ``*.onnx`` and ``*.json``: what they are made of."""
    folder = tmp_path_factory.mktemp("home")
    saved(folder / "images.onnx", ["batch", 3, 8, 8], [2, 3])
    saved(folder / "sound.onnx", ["batch", "samples"], [1])
    for name, entries in (("images", IMAGES), ("sound", SOUND)):
        task = said(folder / f"{name}.json", entries)
        export(folder / f"{name}.onnx", out=folder / name, recipe="int8", task=str(task), threads=1)
    return folder


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a verb that has to refuse; returns its message. Nothing appears beside what was there."""

    def run(*words: str | Path) -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2, words
        found = capsys.readouterr().err
        assert found.startswith("edgepress: ")
        assert "Traceback" not in found
        assert sorted(tmp_path.rglob("*")) == before
        return found

    return run


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "empty.png is no image"),
        ("text.jpg", b"not at all", "text.jpg is no image"),
        ("cut.png", None, "cut.png"),
    ],
)
def test_a_corrupt_image(
    name: str, content: bytes | None, message: str, home: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    folder = photos(tmp_path / "photos", LABELS, 3)
    whole = (folder / "red" / "0.png").read_bytes()
    (folder / "red" / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert message in refused("run", home / "images", folder / "red" / name)
    assert message in refused("eval", home / "images", "--data", folder)
    model = (home / "images.onnx", "--task", home / "images.json", "--out", tmp_path / "out")
    for recipe in ("int8-static", "int8"):
        assert message in refused("export", *model, "--recipe", recipe, "--calibration", folder, "--check")


def test_other_channels_than_the_model_has(home: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    np.savez(tmp_path / "four.npz", x=np.zeros((1, 4, 8, 8), np.float32))
    assert "the model takes x float32 (batch, 3, 8, 8): axis 1 has to be 3 and is 4" in refused(
        "run", home / "images", "--inputs", tmp_path / "four.npz"
    )
    saved(tmp_path / "five.onnx", ["batch", 5, 8, 8], [2, 3])
    words = ("export", tmp_path / "five.onnx", "--task", home / "images.json", "--out", tmp_path / "out")
    assert "images of mode RGB have 3 channels, the input x 5" in refused(*words)


@pytest.mark.parametrize("given", [("--text", "x.txt"), ("--context", "64"), ("--graph", "model.onnx")])
def test_scores_by_an_option_of_language_models(
    given: tuple[str, str], home: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    found = refused("eval", home / "images", "--data", tmp_path, *given)
    assert f"is for image-classification, so there is nothing for {given[0]}" in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--inputs", "x.npz", "--json"), "--json is for answers, and --inputs gives arrays; --outputs"),
        (("photo.png", "--inputs", "x.npz"), "there is nothing for files"),
        (("photo.png", "--outputs", "x.npz"), "--outputs is for what arrays give"),
    ],
)
def test_arrays_and_files_at_once(
    words: tuple[str, ...], message: str, home: Path, refused: Callable[..., str]
) -> None:
    assert message in refused("run", home / "images", *words)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "no WAV file"), (empty_wave(), "is empty")], ids=["no bytes", "no samples"]
)
def test_a_sound_without_samples(
    content: bytes, message: str, home: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    for label in LABELS[:2]:
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for number in range(5):
            (tmp_path / "sounds" / label / f"{number}.wav").write_bytes(content)
    assert message in refused("run", home / "sound", tmp_path / "sounds" / "red" / "0.wav")
    assert message in refused("eval", home / "sound", "--data", tmp_path / "sounds")
    words = ("export", home / "sound.onnx", "--task", home / "sound.json", "--out", tmp_path / "out")
    assert message in refused(*words, "--recipe", "int8-static", "--calibration", tmp_path / "sounds")


@pytest.mark.parametrize("labels", [LABELS[:2], [*LABELS, "purple"]])
def test_labels_that_disagree_with_the_head(
    labels: list[str], home: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    task = said(tmp_path / "task.json", {**IMAGES, "answers": {"classes": {**CLASSES, "labels": labels}}})
    for verb in (["plan"], ["export", "--out", str(tmp_path / "out")]):
        message = refused(verb[0], home / "images.onnx", "--task", task, *verb[1:])
        assert f"{len(labels)} labels" in message
        assert "3" in message


def test_labels_of_samples_that_the_head_has_not(home: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    folder = photos(tmp_path / "photos", ["red", "purple"], 4)
    assert "has the label 'purple'; the model has 3: red, green, blue" in refused(
        "eval", home / "images", "--data", folder
    )


NORM = helper.make_node(
    "BatchNormalization", ["x", "gain", "bias", "mean", "variance"], ["n", "m", "v"], name="norm", training_mode=1
)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ([NORM], "node norm is BatchNormalization in training mode"),
        ([helper.make_node("Dropout", ["x", "half", "yes"], ["d"], name="drop")], "node drop is Dropout in training"),
        (
            [helper.make_node("Adam", ["x"] * 6, ["a", "b", "c"], name="step", domain="ai.onnx.preview.training")],
            "node step is Adam, which trains",
        ),
    ],
)
def test_a_file_that_trains(
    before: list[onnx.NodeProto], message: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    file = saved(tmp_path / "trains.onnx", ["batch", 3, 8, 8], [2, 3], *before)
    model = onnx.load(file)
    model.opset_import.append(helper.make_opsetid("ai.onnx.preview.training", 1))
    onnx.save(model, file)
    for verb in (["plan"], ["export", "--out", str(tmp_path / "out")]):
        found = refused(verb[0], file, *verb[1:])
        assert message in found
        assert "export the model for inference" in found


def test_a_dropout_that_does_nothing_is_taken(tmp_path: Path) -> None:
    dropout = helper.make_node("Dropout", ["x", "half"], ["d"], name="drop")
    file = saved(tmp_path / "infers.onnx", ["batch", 3, 8, 8], [2, 3], dropout)
    assert main(["plan", str(file)]) == 0


def test_samples_of_one_class(home: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    folder = photos(tmp_path / "photos", LABELS[:1], 12)
    words = ("export", home / "images.onnx", "--task", home / "images.json", "--out", tmp_path / "out")
    assert f"all 12 samples of {folder} are of the class red, and the model tells 3 apart" in refused(
        *words, "--recipe", "int8-static", "--calibration", folder
    )
