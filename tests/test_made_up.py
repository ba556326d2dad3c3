"""Made-up inputs: as long as a task says its model is used with, and found without a word of onnxruntime's."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from foreign_models import INT64, Maker, save

from edgepress.cli import main
from edgepress.examples import find_size, make_feeds, usual_size
from edgepress.exporter import export
from edgepress.tasks.images import Crop, Images, Resize
from edgepress.tasks.sound import Mel, Sound
from edgepress.tasks.task import Axis, Edge, Task
from edgepress.tasks.text import Text

VOICE = {
    "name": "voice-activity",
    "sound": {"input": "x", "rate": 1000},
    "answers": {
        "voice": {
            "output": "p",
            "chunk": 120,
            "context": 20,
            "constants": {"rate": 1000},
            "carried": [{"input": "s", "output": "t", "shape": [2, 1, 4]}],
        }
    },
}


def detector() -> onnx.ModelProto:
    """Takes 100 samples or more, as a padding that mirrors 99 of them does, at a rate that is its reciprocal's."""
    m = Maker()
    m.edge("x", ["batch", "samples"])
    m.edge("s", [2, "batch", 4])
    m.edge("rate", [], INT64)
    pads = m.constant("pads", np.array([0, 99, 0, 0], np.int64))
    mirrored = m.node("Pad", ["x", pads], "mirrored", mode="reflect")
    mean = m.node("ReduceMean", [mirrored], "mean", axes=[1], keepdims=1)
    rate = m.node("Cast", ["rate"], "rate.float", to=onnx.TensorProto.FLOAT)
    m.node("Mul", [m.node("Sigmoid", [mean], "opened"), rate], "p")
    m.node("Add", ["s", m.node("MatMul", [mean, m.weight("w", 1, 4)], "step")], "t")
    m.given("p", ["batch", 1])
    m.given("t", [2, "batch", 4])
    return m.model()


def test_a_detector_is_timed_on_its_pieces_and_nothing_else_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = save(detector(), tmp_path / "detector.onnx")
    (tmp_path / "voice.json").write_text(json.dumps(VOICE))
    export(file, out=tmp_path / "voice", task=str(tmp_path / "voice.json"), threads=1)
    export(file, out=tmp_path / "plain", threads=1)
    capfd.readouterr()
    assert main(["bench", str(tmp_path / "voice"), "--no-prepare"]) == 0
    told = capfd.readouterr()
    assert "x 1×140, s 2×1×4, rate scalar" in told.out
    assert "made up" not in told.out
    assert not told.err
    assert main(["bench", str(tmp_path / "plain"), "--no-prepare"]) == 0
    told = capfd.readouterr()  # 8 to 64 samples were tried first, and are too few
    assert "x 1×128, s 2×1×4, rate scalar" in told.out
    assert "made up, 128 long, the first size that ran; give yours, as an .npz file, by --inputs" in told.out
    assert not told.err


def test_constants_are_what_the_task_says() -> None:
    inputs = (Edge("x", "float32", ("batch", "n")), Edge("s", "float32", (2, "batch", 4)), Edge("rate", "int64", ()))
    outputs = (Edge("p", "float32", ("batch", 1)), Edge("t", "float32", (2, "batch", 4)))
    task = msgspec.convert({"inputs": inputs, "outputs": outputs} | VOICE, Task, from_attributes=True)
    first, second = islice(make_feeds(task, 8), 2)
    assert {name: value.shape for name, value in second.items()} == {"x": (1, 140), "s": (2, 1, 4), "rate": ()}
    assert first["rate"] == second["rate"] == 1000


def _sound(**entries: object) -> Task:
    return Task(
        "audio-classification",
        (Edge("x", "float32", ("batch", "n") if "mel" not in entries else ("batch", 40, "n")),),
        (Edge("y", "float32", ("batch", 3)),),
        sound=Sound(input="x", rate=16_000, **entries),  # type: ignore[arg-type]
    )


def _pictures(images: Images) -> Task:
    return Task("image-classification", (Edge("x", "float32", ("batch", 3, "h", "w")),), (), images=images)


def _texts(length: int | None) -> Task:
    ids = Edge("input_ids", "int64", ("batch", "n"))
    return Task("fill-mask", (ids,), (), text=Text(longest=512, length=length))


SHORTEST = Resize(fit="shortest", height=256, width=256)
MEL = Mel(n_fft=400, frame=400, hop=160, bins=40, high=8000)


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        (_sound(), 16_000),
        (_sound(least=20_000), 20_000),
        (_sound(length=24_000), 24_000),
        (_sound(mel=MEL), 100),
        (_sound(mel=MEL, stack=2), 50),
        (_sound(mel=MEL, frames=300), 300),
        (replace(_sound(), axes=(Axis("n", multiple=320, least=640),)), 16_000),
        (replace(_sound(), axes=(Axis("n", multiple=300),)), 16_200),
        (replace(_sound(), axes=(Axis("n", multiple=300, most=1_000),)), 900),
        (replace(_sound(), axes=(Axis("n", least=30_000),)), 30_000),
        (replace(_sound(), sound=None), None),
        (
            _pictures(
                Images(
                    input="x", resize=Resize(fit="shortest", height=256, width=256), crop=Crop(height=224, width=200)
                )
            ),
            224,
        ),
        (_pictures(Images(input="x", resize=Resize(fit="shortest", height=256, width=256))), 256),
        (_pictures(Images(input="x")), None),
        (_texts(128), 128),
        (_texts(None), None),
    ],
)
def test_free_axes_are_as_long_as_the_model_is_used_with(task: Task, wanted: int | None) -> None:
    assert usual_size(task) == wanted


def test_the_usual_size_is_tried_first() -> None:
    seen: list[int] = []

    def run(feed: dict[str, np.ndarray]) -> dict[str, object]:  # type: ignore[type-arg]
        seen.append(feed["x"].shape[1])
        if feed["x"].shape[1] > 100:
            raise RuntimeError("too long")
        return {}

    assert find_size(run, _sound()) == 8
    assert seen == [16_000, 8, 8, 8]
