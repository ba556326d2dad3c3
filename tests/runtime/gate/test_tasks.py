"""Gates of bundles with a task: their runs, scores and instructions; and rules that could never be decided."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import encoder_decoders
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.gate import alike
from edgepress.runtime.gate.figures import Figure, Request
from edgepress.runtime.gate.gating import gate
from edgepress.runtime.gate.gauges import instructions, run
from edgepress.runtime.gate.verdict import Outcome, Verdict
from edgepress.runtime.profile.profiling import profile
from edgepress.runtime.profile.records import Header, Profile, Round, Sample
from edgepress.runtime.profile.settings import Settings
from edgepress.testing import assert_faster_than, assert_same_outputs


def colours(sign: float) -> onnx.ModelProto:
    """Red or blue by the mean of each channel; with ``sign`` -1 it says the other one."""
    weights = numpy_helper.from_array(sign * np.array([[9, -9], [0, 0], [-9, 9]], np.float32), "weights")
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "colours", [pixels], [logits], [weights, axes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gates")
    images = {"input": "pixels", "resize": {"fit": "stretch", "height": 8, "width": 8}, "scale": 1 / 255}
    answers = {"classes": {"output": "logits", "labels": ["red", "blue"]}}
    task = {"name": "image-classification", "images": images, "answers": answers}
    (folder / "task.json").write_text(json.dumps(task))
    for name, sign in (("right", 1.0), ("wrong", -1.0)):
        onnx.save(colours(sign), folder / f"{name}.onnx")
        export(folder / f"{name}.onnx", out=folder / name, recipe="fp32", task=str(folder / "task.json"), threads=1)
    pictures = np.zeros((12, 8, 8, 3), np.uint8)
    pictures[::2, ..., 0] = pictures[1::2, ..., 2] = 200
    np.savez(folder / "labelled.npz", images=pictures, labels=np.arange(12) % 2)
    return folder


def decided(home: Path, bundle: str, text: str) -> dict[str, Verdict]:
    """Verdicts by figure."""
    budget = home / "budget.toml"
    budget.write_text(text)
    return {verdict.figure: verdict for verdict in gate(home / bundle, budget).verdicts}


def profiled(kind: str, asked: list[Settings], *samples: Sample) -> Callable[..., Profile]:
    """In the place of ``profile``: a round with these samples; real where memory is asked for."""

    def measured(bundle: Path, *, settings: Settings, passes: list[str], **options: Any) -> Profile:
        if passes == ["memory"]:
            return profile(bundle, settings=settings, passes=passes, **options)
        asked.append(settings)
        header = Header(schema=1, started="", bundle="", bundle_hash=None, bundle_bytes=1, device="local",
                        description={}, versions={}, settings=settings.to_json(), kind=kind)  # fmt: skip
        return Profile(header, [*samples, Round(of="speed", round=0, whole=True)])

    return measured


def of_speed(what: str, **measured: float) -> Sample:
    return Sample(of="speed", round=0, what=what, measured={name: [value] for name, value in measured.items()})


def test_runs_and_their_memory_are_held_against_a_budget(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settings] = []
    samples = of_speed("load", load_seconds=0.2), of_speed("run", latency_seconds=0.004)
    monkeypatch.setattr(alike, "profile", profiled("graph", asked, *samples))
    text = """
[run]
rows = 2
rounds = 3
run_milliseconds = { most = 3 }
examples_per_second = { least = 499 }
load_milliseconds = { most = 201 }
[memory]
rows = 2
peak_megabytes = { most = 2000 }
steady_megabytes = { most = 1 }
"""
    found = decided(home, "right", text)
    assert [(one.rows, one.prompt_lengths) for one in asked] == [((2,), None)] * 3
    assert {name: verdict.outcome for name, verdict in found.items()} == {
        "run_milliseconds": Outcome.BROKEN,
        "examples_per_second": Outcome.KEPT,
        "load_milliseconds": Outcome.KEPT,
        "peak_megabytes": Outcome.KEPT,
        "steady_megabytes": Outcome.BROKEN,
    }
    assert found["examples_per_second"].value == pytest.approx(2 / 0.004)


def test_scores_are_held_beside_what_a_bundle_was_made_from(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = "value = { least = 0.9 }\nlost = { most = 0.01 }\nchanged_share = { most = 0.0 }\n"
    text = f'[score]\ndata = "labelled.npz"\nmetric = "top1"\nreference = "{home / "right"}"\n{rules}'
    right, wrong = decided(home, "right", text), decided(home, "wrong", text)
    assert {verdict.outcome for verdict in right.values()} == {Outcome.KEPT}
    assert {verdict.outcome for verdict in wrong.values()} == {Outcome.BROKEN}
    assert [wrong[name].value for name in ("value", "lost", "changed_share")] == [0.0, 1.0, 1.0]
    original = text.replace(str(home / "right"), str(home / "right.onnx"))
    (home / "budget.toml").write_text(original)
    assert main(["gate", str(home / "wrong"), "--budget", str(home / "budget.toml")]) == 1
    assert "1 top1 is more than 0.01" in capsys.readouterr().out
    with pytest.raises(InputError, match="need a model to compare with"):
        decided(home, "right", '[score]\ndata = "labelled.npz"\nlost = { most = 0.1 }\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[speed]\nttft_ms = { most = 9 }", r"ttft_ms is of bundles of the kind language model or encoder-decoder"),
        ("[energy]\njoules_per_token = { most = 9 }", "take joules_per_example"),
        ("[instructions]\nper_decoded_token = { most = 9 }", "take per_run"),
        ("[memory]\nprompt_length = 9\npeak_megabytes = { most = 9 }", "which has no prompt lengths"),
    ],
)
def test_rules_that_could_never_be_decided_are_refused(home: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decided(home, "right", text)


def test_runs_are_no_figure_of_a_model_that_writes_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(encoder_decoders.save("bart", tmp_path / "bart"), out=tmp_path / "text", target="x86-cpu", threads=1)
    (tmp_path / "budget.toml").write_text("[run]\nrun_milliseconds = { most = 9 }\n")
    with pytest.raises(InputError, match="of the kind encoder-decoder; leave the section out"):
        gate(tmp_path / "text", tmp_path / "budget.toml")
    (tmp_path / "budget.toml").write_text(
        "[speed]\nprompt_length = 4\ndecode_tokens = 4\nrounds = 3\ndecode_tokens_per_second = { least = 0.001 }\n"
    )
    asked: list[Settings] = []
    monkeypatch.setattr(alike, "profile", profiled("encoder-decoder", asked, of_speed("decode", step_seconds=0.01)))
    [verdict] = gate(tmp_path / "text", tmp_path / "budget.toml").verdicts
    assert (verdict.outcome, verdict.value) == (Outcome.KEPT, pytest.approx(100))
    assert [(one.prompt_lengths, one.decode_tokens, one.rows) for one in asked] == [((4,), 4, None)] * 3


def test_instructions_of_a_run_are_counted_on_made_up_inputs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, tuple[int, ...]]] = []

    def count(_e: object, _s: object, model: Path, feed: dict[str, np.ndarray], _cpus: object) -> list[object]:
        asked.append((model, feed["pixels"].shape))
        return [SimpleNamespace(instructions=2_500_000)]

    monkeypatch.setattr(instructions, "count_model", count)
    monkeypatch.setattr(instructions, "setup", lambda: None)
    monkeypatch.setattr(instructions, "setup_system", lambda: None)
    options = {"cpu": "cortex-a76", "rows": 3, "length": None}
    [[figure]] = instructions.GAUGE.take([Request(home / "right", "local", ("per_run",), options)])
    assert asked == [(home / "right" / "model.onnx", (3, 3, 8, 8))]
    assert (figure.name, figure.observations, figure.exact) == ("per_run", (2.5,), True)


def test_assertions_of_apps_take_bundles_with_a_task(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = load(home / "right"), load(home / "wrong")
    inputs = {"pixels": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    assert_same_outputs(right, right.run, inputs, least_sqnr_db=100)
    with pytest.raises(AssertionError, match=r"logits is -6\.0 dB above its difference; 15 are asked for"):
        assert_same_outputs(right, wrong.run, inputs)
    with pytest.raises(AssertionError, match="the reference has no logits"):
        assert_same_outputs(right, lambda _feed: {}, inputs)
    slow = Figure("examples_per_second", "examples/s", "more", (10.0, 10.1, 9.9))
    monkeypatch.setattr(run, "GAUGE", replace(run.GAUGE, take=lambda _requests: [[slow]]))
    with pytest.raises(AssertionError, match="examples_per_second: 10 examples/s is less than 20"):
        assert_faster_than(home / "right", 20.0)
