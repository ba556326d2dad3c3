"""Static forms of models that are no language models: what an accelerator computes is what the CPU does."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.bundle.one_graph.asked import static_shapes
from edgepress.runtime import load
from edgepress.runtime.loading import at_one_size
from edgepress.targets import find_target
from edgepress.targets.providers import qnn
from edgepress.tasks.task import Edge, Task
from edgepress.tasks.text import Text

pytest.importorskip("onnxruntime_qnn", reason="needs the wheel onnxruntime-qnn: pip install 'edgepress[qnn]'")

RECIPES = {"int8-static": 30, "int8-static-a16": 50, "fp32": 45}  # dB against the bundle's CPU graph
CHIP = "sm8650"


def network() -> onnx.ModelProto:
    """Two convolutions with a sum around the second, and a classifier: ``pixels`` (batch, 3, 12, 12) → ``logits``."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name)

    same = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["pixels", "first"], ["a"], "a", **same),
        helper.make_node("Relu", ["a"], ["b"], "b"),
        helper.make_node("Conv", ["b", "second"], ["c"], "c", **same),
        helper.make_node("Add", ["b", "c"], ["d"], "d"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "e"),
        helper.make_node("Flatten", ["e"], ["f"], "f"),
        helper.make_node("Gemm", ["f", "head", "bias"], ["logits"], "logits"),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 12, 12])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])
    weights = [weight("first", 8, 3, 3, 3), weight("second", 8, 8, 3, 3), weight("head", 8, 5), weight("bias", 5)]
    graph = helper.make_graph(nodes, "network", [pixels], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static")
    onnx.save(network(), folder / "network.onnx")
    pixels = np.random.default_rng(1).standard_normal((16, 1, 3, 12, 12)).astype(np.float32)
    np.savez(folder / "samples.npz", pixels=pixels)
    np.savez(folder / "inputs.npz", pixels=pixels[:4, 0])
    for recipe in RECIPES:
        calibration = [folder / "samples.npz"] if "static" in recipe else []
        export(
            folder / "network.onnx",
            out=folder / recipe,
            recipe=recipe,
            target=["qnn-htp", "android-cpu"],
            socs=[CHIP] if recipe == "int8-static" else [],
            calibration=calibration,
            threads=1,
        )
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_simulated_accelerator_computes_what_the_cpu_does(home: Path, recipe: str) -> None:
    bundle = home / recipe
    described = read_manifest(bundle).targets["qnn-htp"]
    assert isinstance(described, dict)
    assert described["shapes"] == {"batch": 1}
    assert list(described["socs"]) == ([CHIP] if recipe == "int8-static" else [])
    assert find_problems(bundle) == []
    there = load(bundle, on="qnn-htp", soc=CHIP)
    assert (there.ran_on.soc, there.ran_on.simulated, there.task.inputs[0].shape[0]) == (CHIP, True, 1)
    with np.load(home / "inputs.npz") as arrays:
        feed = dict(arrays)
    truth, seen = (model.run_rows(feed)["logits"] for model in (load(bundle, on="cpu", prepared=False), there))
    assert seen.shape == truth.shape == (4, 5)
    noise = ((truth - seen) ** 2).sum()
    assert 10 * np.log10((truth**2).sum() / max(noise, 1e-30)) > RECIPES[recipe]
    assert (truth.argmax(1) == seen.argmax(1)).all()


def test_the_command_line_runs_and_measures_it(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = tmp_path / "one.npz"
    with np.load(home / "inputs.npz") as arrays:
        np.savez(one, pixels=arrays["pixels"][:1])
    place = [str(home / "int8-static"), "--on", "qnn-htp", "--inputs", str(one)]
    assert main(["run", *place, "--outputs", str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as out:
        assert out["logits"].shape == (1, 5)
    capsys.readouterr()
    assert main(["bench", *place, "--repetitions", "2"]) == 0
    assert f"qnn-htp {CHIP}, simulated" in capsys.readouterr().out
    assert main(["run", str(home / "int8-static"), "--on", "qnn-htp", "--inputs", str(home / "inputs.npz")]) == 2
    assert "pixels float32 (1, 3, 12, 12)" in capsys.readouterr().err
    assert main(["run", str(home / "int8-static"), "--on", "openvino-cpu", "--inputs", str(one)]) == 2
    assert "it has those for qnn-htp, cpu" in capsys.readouterr().err


def test_an_accelerator_is_taken_when_there_is_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(home / "int8-static").ran_on.target == "cpu"
    opened = []

    def opens(model: Path, *_: object, **__: object) -> object:
        opened.append(model)
        raise InputError("it does not open")

    monkeypatch.setattr(qnn, "simulated", lambda: False)
    monkeypatch.setattr(qnn, "open_session", opens)
    assert load(home / "int8-static").ran_on.target == "cpu"  # with a warning: the CPU steps in
    assert opened == [home / "int8-static" / "qnn-htp" / "model.onnx"]


@pytest.mark.parametrize(
    ("recipe", "socs", "message"),
    [
        ("int8", [], "integers everywhere or none, and recipe int8 stores weights alone"),
        ("int8-dynamic", [], "recipes that fit: int8-static-a16"),
        ("fp16", ["sm8350"], "sm8350 cannot compute in float16"),
    ],
)
def test_what_no_chip_takes_is_refused_before_anything_is_written(
    home: Path, tmp_path: Path, recipe: str, socs: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export(home / "network.onnx", out=tmp_path / "out", recipe=recipe, target="qnn-htp", socs=socs)
    assert not list(tmp_path.iterdir())


def test_a_context_is_of_texts(home: Path, tmp_path: Path) -> None:
    for target, message in (("qnn-htp", "takes no text has no context"), ("arm64-cpu", "--context has no effect")):
        with pytest.raises(InputError, match=message):
            export(home / "network.onnx", out=tmp_path / "out", recipe="fp32", target=target, context_length=64)
        (tmp_path / "mine.toml").write_text("context_length = 64\n[weights]\nbits = 32\n")
        with pytest.raises(InputError, match=r"no context of 64 tokens|has context_length = 64, and .*no language"):
            export(home / "network.onnx", out=tmp_path / "out", recipe=tmp_path / "mine.toml", target=target)


def test_texts_longer_than_the_model_takes_are_refused() -> None:
    edges = tuple(Edge(name, "int64", ("batch", "tokens")) for name in ("input_ids", "attention_mask"))
    outputs = (Edge("y", "float32", ("batch", "tokens", 8)),)
    task = Task("feature-extraction", edges, outputs, text=Text(longest=64, mask="attention_mask"))
    target = find_target("qnn-htp")

    def shapes(context: int | None) -> dict[str, int]:
        subject: Any = SimpleNamespace(task=task, recipe=SimpleNamespace(context_length=context))
        return static_shapes(subject, target)

    assert shapes(None) == shapes(64) == {"batch": 1, "tokens": 64}
    with pytest.raises(InputError, match="asked for texts of 65 tokens, and texts are cut after 64; give --context 64"):
        shapes(65)


def test_an_axis_of_which_nothing_says_a_size_is_refused(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "steps"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "steps"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "free", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "free.onnx"
    )
    with pytest.raises(InputError, match="nothing says how long steps of x is"):
        export(tmp_path / "free.onnx", out=tmp_path / "out", recipe="fp32", target="qnn-htp")


@given(length=st.integers(1, 300), longest=st.integers(1, 300))
def test_texts_of_a_static_graph_are_cut_and_padded_to_its_length(length: int, longest: int) -> None:
    edges = tuple(Edge(name, "int64", ("batch", "tokens")) for name in ("input_ids", "attention_mask"))
    text = Text(longest=longest, mask="attention_mask")
    task = Task(name="feature-extraction", inputs=edges, outputs=(Edge("y", "float32", ("batch", "tokens", 8)),))
    found = at_one_size(replace(task, text=text), {"batch": 1, "tokens": length})
    assert {edge.shape for edge in found.inputs} == {(1, length)}
    assert found.outputs[0].shape == (1, length, 8)
    assert found.text is not None
    assert (found.text.length, found.text.longest) == (length, min(longest, length))
    assert at_one_size(task, {}) == task


def test_the_manifest_says_how_to_plan_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(home / "network.onnx"), "--recipe", "int8-static", "--target", "qnn-htp"]
    assert main([*words, "--calibration", str(home / "samples.npz"), "--json"]) == 0
    json.loads(capsys.readouterr().out)
    assert main(["plan", str(home / "network.onnx"), "--recipe", "int4", "--target", "qnn-htp"]) == 2
    assert "stores weights alone" in capsys.readouterr().err
