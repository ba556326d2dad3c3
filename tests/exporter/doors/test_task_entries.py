"""A task that the user says in a JSON file, from an ONNX file to answers on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.doors.processing.entries import task_of
from edgepress.exporter.doors.samples import read_samples
from edgepress.exporter.doors.traced import Traced
from edgepress.runtime import load
from edgepress.tasks.task import Edge

pytest.importorskip("PIL", reason="images are decoded by Pillow")
LABELS = ["red", "green", "blue"]
ENTRIES: dict[str, Any] = {
    "name": "image-classification",
    "images": {"input": "pixels", "resize": {"fit": "stretch", "height": 8, "width": 8}, "scale": 1 / 255},
    "answers": {"classes": {"output": "logits", "labels": LABELS}},
}
EDGES = (Edge("pixels", "float32", ("batch", 3, 8, 8)),), (Edge("logits", "float32", ("batch", 3)),)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Logits are six times the mean of each channel."""
    constants = {"weights": 6 * np.eye(3, dtype=np.float32), "axes": np.array([2, 3])}
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "means", [pixels], [logits], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(made, tmp_path / "means.onnx")
    return tmp_path / "means.onnx"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    from PIL import Image

    for number in range(4):
        for channel, label in enumerate(LABELS):
            (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
            colour = tuple(255 - number if channel == other else 0 for other in range(3))
            Image.new("RGB", (10, 12), colour).save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


def test_a_bundle_answers_files_by_what_the_user_said(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.json").write_text(json.dumps(ENTRIES))
    out = tmp_path / "bundle"
    said = str(tmp_path / "task.json")
    export(str(model), out=out, recipe="int8", task=said, calibration=[photos], check=True)
    probabilities = np.exp([6, 0, 0]) / np.exp([6, 0, 0]).sum()
    best = load(out).classify(photos / "red" / "0.png")[0]
    assert (best.label, best.score) == ("red", pytest.approx(probabilities[0], abs=0.01))
    files = [str(photos / label / "1.png") for label in LABELS]
    capsys.readouterr()
    assert main(["run", str(out), *files, "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["file"] for answer in answers] == files
    assert [answer["answer"][0]["label"] for answer in answers] == LABELS
    assert main(["run", str(out), files[2]]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("blue ")
    assert main(["inspect", str(out), "--json"]) == 0
    task = json.loads(capsys.readouterr().out)["bundle"]["task"]
    assert task["images"]["resize"] == {
        "fit": "stretch",
        "height": 8,
        "width": 8,
        "filter": "bilinear",
        "multiple_of": 1,
    }
    assert task["answers"]["classes"]["labels"] == LABELS
    assert main(["run", str(out)]) == 2
    assert "give an image file, or --inputs" in capsys.readouterr().err
    assert main(["run", str(out), str(model)]) == 2
    assert "no image that Pillow can read" in capsys.readouterr().err


def test_samples_that_cannot_be_used_leave_no_bundle(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps(ENTRIES))
    (photos / "red" / "0.png").write_bytes(b"damaged")
    out = tmp_path / "bundle"
    with pytest.raises(InputError, match=r"red/0\.png is no image"):
        export(str(model), out=out, recipe="int8", task=str(tmp_path / "task.json"), calibration=[photos], check=True)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"imagse": {}}, "has the entry imagse, which means nothing"),
        ({"images": {"input": "pixels", "scal": 2}}, "has the entry images.scal"),
        ({"images": {"input": "pixels", "mode": "CMYK"}}, "images.mode"),
        ({"images": {"input": "other"}}, "become the input other"),
        ({"answers": {"classes": {"output": "logits", "labels": ["one"]}}}, "1 labels"),
        ({"text": {"ids": "pixels", "longest": 5}}, "which has 4 axes"),
        ({"name": None}, "name"),
    ],
)
def test_entries_that_mean_nothing_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / "task.json").write_text(json.dumps({**ENTRIES, **change}))
    with pytest.raises(InputError, match=said):
        task_of(str(tmp_path / "task.json"), *EDGES, tmp_path)


def test_files_of_a_checkpoint_beside_an_onnx_file_are_read(model: Path) -> None:
    import transformers

    folder = model.parent
    transformers.ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(LABELS))}))
    task = task_of("image-classification", *EDGES, folder).task
    assert task.images is not None
    assert task.images.mean == (0.5, 0.5, 0.5)
    assert task.answers is not None
    assert task.answers.classes is not None
    assert task.answers.classes.labels == tuple(LABELS)
    assert task_of(None, *EDGES, folder).task.images is None


def test_a_bundle_is_scored_beside_what_it_was_made_from(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.json").write_text(json.dumps(ENTRIES))
    out = tmp_path / "bundle"
    export(str(model), out=out, recipe="int8", task=str(tmp_path / "task.json"))
    (photos / "red" / "0.png").rename(photos / "blue" / "wrong.png")
    command = ["eval", str(out), "--data", str(photos)]
    capsys.readouterr()
    for reference in (model, out):
        assert main([*command, "--reference", str(reference), "--json"]) == 0
        scores = {one["metric"]: one for one in json.loads(capsys.readouterr().out)}
        assert set(scores) == {"top1", "top5", "f1"}
        assert scores["top1"]["value"] == scores["top1"]["reference"] == pytest.approx(11 / 12)
        assert scores["top5"]["value"] == 1
        assert scores["top1"]["changed"] == 0
    assert main([*command, "--metric", "top1", "--samples", "6"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["top1", "6"]
    for wrong, said in [
        (["eval", str(out)], "give --data SOURCE"),
        (["run", str(tmp_path / "nowhere"), "a.png"], "is not a directory"),
        ([*command, "--metric", "wer"], "wer is a metric of automatic-speech-recognition"),
        ([*command, "--reference", str(tmp_path)], "is no bundle and no model"),
        ([*command, "--samples", "0"], "samples is 0"),
    ]:
        assert main(wrong) == 2
        assert said in capsys.readouterr().err
    (photos / "purple").mkdir()
    (photos / "red" / "1.png").rename(photos / "purple" / "1.png")
    assert main(command) == 2
    assert "has the label 'purple'; the model has 3: red, green, blue" in capsys.readouterr().err


def test_bytes_are_images_even_by_the_name_of_the_graphs_input(tmp_path: Path) -> None:
    """And floats by that name are what the graph takes."""
    entries = {**ENTRIES, "images": {**ENTRIES["images"], "input": "images"}}
    task = task_of(entries, (Edge("images", "float32", ("batch", 3, 8, 8)),), EDGES[1], tmp_path).task
    photos = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    ready = (photos.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    np.savez(tmp_path / "bytes.npz", images=photos)
    np.savez(tmp_path / "floats.npz", images=ready)
    traced = Traced(file=tmp_path / "unread.onnx", model_type="onnx", task=task, examples=lambda _: iter(()))
    for name in ("bytes.npz", "floats.npz"):
        feeds = [feed["images"] for feed in read_samples([tmp_path / name], traced)()]
        np.testing.assert_allclose(np.concatenate(feeds), ready, atol=1e-6)


def test_what_a_graph_of_no_task_is_given_is_told_of_the_task(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images for a graph of which nothing says how they become its inputs; a revision of a file."""
    out = tmp_path / "bundle"
    for given, what in ((photos, "there is no .npz file in"), (photos / "red" / "0.png", "is no .npz file")):
        with pytest.raises(InputError, match=f"{what}.*how anything else becomes pixels; give --task FILE.json"):
            export(str(model), out=out, recipe="int8", calibration=[given])
    with pytest.raises(InputError, match="--revision is of a model on the hub"):
        export(str(model), out=out, recipe="int8", revision="main")
    assert not out.exists()
    assert main(["export", str(model), "--task", "image-classification", "--out", str(out)]) == 0
    assert "note: image-classification is a name alone" in capsys.readouterr().out
    assert main(["run", str(out), str(photos / "red" / "0.png")]) == 2
    assert "export it again with --task FILE.json" in capsys.readouterr().err


def test_blame_takes_the_task_from_the_bundle(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.json").write_text(json.dumps(ENTRIES))
    out, other = tmp_path / "bundle", tmp_path / "other"
    export(str(model), out=out, recipe="int8", task=str(tmp_path / "task.json"))
    capsys.readouterr()
    assert main(["blame", str(out), "--model", str(model), "--data", str(photos), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["made_up"]) == (12, False)
    assert "nats" in found["unit"]  # the divergence of a classifier
    export(str(model), out=other, recipe="fp32")
    assert main(["eval", str(out), "--data", str(photos), "--reference", str(other)]) == 2
    assert "is for tensors, the bundle for image-classification" in capsys.readouterr().err


def test_a_target_whose_graph_a_bundle_has_not_is_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target, said in (("arm64-cpu", True), ("ios-coreml", False)):
        export(str(model), out=tmp_path / target, recipe="fp32", target=target, task=str(_entries(tmp_path)))
        main(["check", str(tmp_path / target), "--target", "ios-coreml", "--json"])
        out, err = capsys.readouterr()
        assert ("was made for arm64-cpu, and ios-coreml needs a graph of its own" in err) == said
        assert json.loads(out)["models"]


def _entries(folder: Path) -> Path:
    (folder / "task.json").write_text(json.dumps(ENTRIES))
    return folder / "task.json"
