"""Budgets of models that are no language models: prices against what is shipped, limits against what is measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from learned_graphs import convolutions, encoder, images, texts
from onnx import TensorProto, helper, numpy_helper

from edgepress.bundle.manifest import Manifest, find_problems
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.written.inspection import format_inspection, inspect
from edgepress.exporter.decide.report import format_traced
from edgepress.exporter.decide.traced import PreparedTraced, decide_traced
from edgepress.exporter.doors.kinds import Options, find_door
from edgepress.exporter.doors.samples import read_samples
from edgepress.exporter.interpreter.network import Network
from edgepress.exporter.learn.graphs.loss import Distance
from edgepress.sessions import open_on_cpu

Feeds = Sequence[dict[str, np.ndarray]]
CANDIDATES = 'candidates = ["2:32", "4:16", "8:16"]\n'


def saved(path: Path, feeds: Feeds) -> Path:
    np.savez(path, **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    return path


def in_float(bundle: Path, feeds: Feeds) -> list[np.ndarray]:
    """What the bundle's graph gives where no input of a product is rounded."""
    model = onnx.load(bundle / "model.onnx")
    for attribute in (a for node in model.graph.node for a in node.attribute if a.name == "accuracy_level"):
        attribute.i = 1
    session = open_on_cpu(model.SerializeToString())
    return [session.run(None, dict(feed))[0] for feed in feeds]


def error(found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    noise = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(found, truth, strict=True))
    return noise / sum(float(np.square(b.astype(np.float64)).sum()) for b in truth)


def exported(model: Path, recipe: str, folder: Path, feeds: Feeds) -> tuple[Path, Manifest]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.toml").write_text(recipe)
    source = saved(folder / "x.npz", feeds)
    manifest = export(model, recipe=folder / "recipe.toml", out=folder / "out", calibration=[source], threads=1)
    return folder / "out", manifest


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_price_is_what_that_weight_alone_costs_in_a_bundle(method: str, tmp_path: Path) -> None:
    """Against onnxruntime, on bundles that keep everything else in float."""
    model, feeds = encoder(tmp_path / "model.onnx"), texts(12)
    _, manifest = exported(
        model, f'[weights]\nmethod = "{method}"\n[budget]\nerror = 0.004\n{CANDIDATES}', tmp_path / "budget", feeds
    )
    assert manifest.budget is not None
    prices: Any = manifest.budget["prices"]
    assert set(prices) == {"up", "down"}
    seen = [feed for index, feed in enumerate(feeds) if index % 3 != 2]
    scored = feeds[2::3]
    truth = [open_on_cpu(model).run(None, dict(feed))[0] for feed in scored]
    for name, bits, block in (("up", 4, 16), ("down", 4, 16), ("up", 8, 16)):
        alone = f'[weights]\n[[override]]\nmatch = "{name}"\nmethod = "{method}"\nbits = {bits}\nblock_size = {block}\n'
        out, _ = exported(model, alone, tmp_path / f"{name}{bits}", seen)
        assert prices[name][f"{bits}:{block}"] == pytest.approx(error(in_float(out, scored), truth), rel=0.02)


def test_a_limit_in_error_is_met_by_what_ships(tmp_path: Path) -> None:
    model, feeds = encoder(tmp_path / "model.onnx"), texts(12)
    out, manifest = exported(model, f"[weights]\n[budget]\nerror = 0.004\n{CANDIDATES}", tmp_path / "b", feeds)
    assert not find_problems(out)
    truth = [open_on_cpu(model).run(None, dict(feed))[0] for feed in feeds[2::3]]
    budget: Any = manifest.budget
    measured = error(in_float(out, feeds[2::3]), truth)
    assert budget["measured"] == pytest.approx(measured, rel=0.01)
    assert measured <= 0.004
    assert budget["samples"] == 4
    assert manifest.decisions["overrides"]
    schemes = {str(tensor["name"]): tensor["scheme"] for tensor in manifest.tensors if tensor["scheme"]}
    assert {scheme["bits"] for scheme in schemes.values()} == {4, 8} or len(schemes) == 2  # type: ignore[index]
    reasons = {str(tensor["name"]): str(tensor["reason"]) for tensor in manifest.tensors}
    assert reasons["up"].startswith("chosen by budget error = 0.004: ")
    assert "costs error" in reasons["up"]
    assert "error = 0.004" in format_inspection(inspect(out))


def test_a_limit_in_bytes_is_met(tmp_path: Path) -> None:
    model, feeds = encoder(tmp_path / "model.onnx"), texts(12)
    out, manifest = exported(model, f"[weights]\n[budget]\nsize_mb = 0.0019\n{CANDIDATES}", tmp_path / "b", feeds)
    size = (out / "model.onnx.data").stat().st_size
    assert size <= 1900
    assert manifest.budget is not None
    assert manifest.budget["used"] == f"{size / 1e6:.6f} MB"
    with pytest.raises(
        InputError, match=r"size_mb = 0\.0009 cannot be met with these candidates; the smallest that can"
    ):
        exported(model, f"[weights]\n[budget]\nsize_mb = 0.0009\n{CANDIDATES}", tmp_path / "c", feeds)


def test_multiply_adds_of_each_weight(tmp_path: Path) -> None:
    """Of (4, 3, 8, 8) images: a 3 × 3 convolution whose edges are padded, a depthwise one, a 1 × 1, a product."""
    _, manifest = exported(
        convolutions(tmp_path / "m.onnx"), '[weights]\n[budget]\nerror = 0.05\ncandidates = ["8:16"]', tmp_path / "b",
        images(6),
    )  # fmt: skip
    budget: Any = manifest.budget
    places = 4 * 8 * 8
    counts = {"stem.w": places * 8 * 27, "deep.w": places * 8 * 9, "project.w": places * 6 * 8, "head.w": 4 * 6 * 5}
    assert {name: count for name, (count, _) in budget["multiply_adds"].items()} == counts
    shares = [share for _, share in budget["multiply_adds"].values()]
    assert sum(shares) == pytest.approx(1, abs=1e-3)


def test_divergence_of_logits() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(0, 2, (2, 6, 5))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b))
    expected = float((p * np.log(p / q)).sum(1).mean())
    found = Distance("kl", ("y",))([{"y": b[:2]}, {"y": b[2:]}], [{"y": a[:2]}, {"y": a[2:]}])
    assert found == pytest.approx(expected)
    assert Distance("kl", ("y",))([{"y": np.full((1, 3), np.nan)}], [{"y": np.ones((1, 3))}]) == float("inf")


# ---- the metric of a task -------------------------------------------------------------------------------------------


def colours(folder: Path) -> tuple[Path, Path, Path]:
    """A classifier of images by their mean colour, its task, and images near the border between two of its classes."""
    random = np.random.default_rng(2)
    hidden = random.normal(0, 1, (3, 32)).astype(np.float32)
    out = random.normal(0, 1, (32, 4)).astype(np.float32)
    constants = [numpy_helper.from_array(value, name) for name, value in (("hidden", hidden), ("out", out))]
    constants.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "hidden"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "out"], ["logits"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 4, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(nodes, "colours", [pixels], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "colours.onnx")
    entries = {"images": {"input": "pixels", "scale": 1 / 255, "resize": {"fit": "stretch", "height": 4, "width": 4}},
               "answers": {"classes": {"output": "logits", "labels": ["a", "b", "c", "d"]}}}  # fmt: skip
    (folder / "task.json").write_text(json.dumps({"name": "image-classification", **entries}))
    means = random.integers(0, 256, (240, 1, 1, 3), np.uint8)
    shown = np.broadcast_to(means, (240, 4, 4, 3)).astype(np.uint8)
    right = np.maximum(means.reshape(-1, 3) / 255 @ hidden, 0) @ out
    np.savez(folder / "labelled.npz", images=shown, labels=right.argmax(1))
    return folder / "colours.onnx", folder / "task.json", folder / "labelled.npz"


def prepared(model: Path, task: Path | None, recipe: str, samples: Path, folder: Path) -> PreparedTraced:
    (folder / "r.toml").write_text(recipe)
    door = find_door(str(model))
    assert door is not None
    traced = door.open(str(model), Options(None if task is None else str(task)), folder)
    given = read_samples([samples], traced)
    return decide_traced(traced, target="arm64-cpu", recipe=folder / "r.toml", samples=given, folder=folder)


@pytest.mark.parametrize("limit", ['metric_loss = 0.03\nmetric = "top1"', "changed = 0.05"])
def test_a_limit_in_the_metric_of_the_task(limit: str, tmp_path: Path) -> None:
    model, task, samples = colours(tmp_path)
    found = prepared(model, task, f"[weights]\n[budget]\n{limit}\n{CANDIDATES}", samples, tmp_path)
    budget: Any = found.budget
    score = budget["score"]
    assert score["metric"] == ("top1" if "top1" in limit else "f1")
    assert (score["samples"], score["reference"]) == (80, 1.0)  # labels are the model's own
    lost = score["changed"]
    assert score["metric"] == "f1" or lost == pytest.approx(1.0 - score["value"])
    most = limit.partition("\n")[0]
    assert lost <= float(most.rpartition(" ")[2])
    bits = {t.weight.name: t.scheme.bits for t in found.plan.tensors if t.scheme is not None}
    assert min(bits.values()) < 8  # 8 bits in both would lose next to nothing
    assert f"budget       {most}, {lost:.6f} of" in format_traced(found)


def test_a_limit_that_only_more_bits_meet_gets_them(tmp_path: Path) -> None:
    model, task, samples = colours(tmp_path)
    loose, tight = (
        prepared(
            model,
            task,
            f"[weights]\n[budget]\nmetric_loss = {most}\nmetric = 'top1'\ncandidates = ['2:32', '4:16', '32']",
            samples,
            tmp_path,
        )
        for most in (0.5, 1e-6)
    )
    assert loose.plan.data_bytes < tight.plan.data_bytes
    assert {t.scheme.bits for t in loose.plan.tensors if t.scheme is not None} == {2}


def test_answers_that_change_need_no_labels(tmp_path: Path) -> None:
    model, task, samples = colours(tmp_path)
    np.savez(tmp_path / "bare.npz", images=np.load(samples)["images"])
    asked = "[weights]\n[budget]\n{}\nmetric = 'top1'\n" + CANDIDATES
    found = prepared(model, task, asked.format("changed = 0.05"), tmp_path / "bare.npz", tmp_path)
    budget: Any = found.budget
    assert "score" not in budget
    assert float(budget["used"].split()[0]) <= 0.05
    with pytest.raises(
        InputError, match=r"the samples have no labels, which top1 needs; give some, or take \[budget\]"
    ):
        prepared(model, task, asked.format("metric_loss = 0.05"), tmp_path / "bare.npz", tmp_path)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    model, task, samples = colours(tmp_path)
    arrays = saved(tmp_path / "x.npz", [{"x": feed["x"]} for feed in texts(4)])
    other = encoder(tmp_path / "encoder.onnx")
    budget = f"[weights]\n[budget]\n{{}}\n{CANDIDATES}"
    cases = [
        (other, None, "kl = 0.1", arrays, "kl is of models whose answers are the softmax of logits"),
        (
            other,
            None,
            "metric_loss = 0.1\nmetric = 'top1'",
            arrays,
            "metric = 'top1' is measured on samples of the task tensors",
        ),
        (other, None, "memory_mb = 1.0", arrays, "memory_mb, ms_per_token, group and measure are for language models"),
        (model, task, 'metric_loss = 0.1\nmetric = "wer"', samples, "wer is a metric of automatic-speech-recognition"),
        (model, task, "kl = 0.1\ngroup = 'layer'", samples, "group and measure are for language models"),
    ]
    for file, of, limit, given, message in cases:
        with pytest.raises(InputError, match=message):
            prepared(file, of, budget.format(limit), given, tmp_path)
    (tmp_path / "r.toml").write_text(budget.format("error = 0.1"))
    with pytest.raises(InputError, match="which is measured on real inputs, and there are none"):
        export(other, recipe=tmp_path / "r.toml", out=tmp_path / "out")
    with pytest.raises(InputError, match="error, metric_loss, changed and metric are for models that are no language"):
        decide("demo", target="x86-cpu", recipe=tmp_path / "r.toml")


def test_the_walk_finds_where_a_weight_is_first_read_past_what_moves_it() -> None:
    """A table is looked up, and its transposition is the last product."""
    from foreign_models import tied

    from edgepress.exporter.interpreter.walk import Walk
    from edgepress.exporter.learn.graphs.prices import first_readers

    model = tied()
    network = Network(model)
    walk = Walk(network, [{"ids": np.zeros((1, 3), np.int64)}])
    places = first_readers(walk, ["table", "gain"])
    assert [walk.ahead[places[name]].key for name in ("table", "gain")] == ["Gather", "LayerNormalization"]
