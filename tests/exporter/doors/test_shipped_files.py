"""ONNX files as converters write them that people use: what found in real ones is made small here."""

from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_models import Maker
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from edgepress.bundle.manifest import read_manifest
from edgepress.exporter import export
from edgepress.exporter.bundle.parities.traced import largest
from edgepress.exporter.doors.comparing.probabilities import ROUNDING, least_sizes
from edgepress.exporter.doors.kinds import Options
from edgepress.exporter.doors.traced import TOLERANCE
from edgepress.exporter.doors.ways.onnx_file import open_file
from edgepress.exporter.graph.foreign.unsaid import numbers_looked_for
from edgepress.runtime import load


def detector(opset: int = 13) -> onnx.ModelProto:
    """A map of probabilities that are next to nothing everywhere, as of a text detector that sees no text."""
    m = Maker(opset)
    m.edge("image", ["batch", 3, "height", "width"])
    value = m.node("Conv", ["image", m.weight("w1", 8, 3, 3, 3)], "c1", pads=[1, 1, 1, 1])
    for name, base in (("scale", 1.0), ("shift", 0.0), ("mean", 0.1), ("variance", 1.0)):
        m.constant(name, np.full(8, base, np.float32) + np.arange(8, dtype=np.float32) / 16)
    value = m.node("BatchNormalization", [value, "scale", "shift", "mean", "variance"], "b1")
    m.constant("far", np.full(1, -16, np.float32))
    value = m.node("Conv", [value, m.weight("w2", 1, 8, 1, 1), "far"], "c2")
    m.node("Sigmoid", [value], "map")
    m.given("map", ["batch", 1, "height", "width"])
    return m.model()


def test_probabilities_of_nothing_are_checked_at_the_rounding_of_one(tmp_path: Path) -> None:
    onnx.save(detector(), tmp_path / "detector.onnx")
    manifest = export(tmp_path / "detector.onnx", out=tmp_path / "bundle", recipe="int8", check=True)
    assert manifest.parity is not None
    assert 0 <= manifest.parity["float_difference"] <= TOLERANCE


@pytest.mark.parametrize(("added", "refused"), [(ROUNDING / 2, False), (ROUNDING * 2, True)])
def test_more_than_a_rounding_is_refused(added: float, *, refused: bool) -> None:
    expected = [[np.full((1, 1, 4, 4), 1e-7)]]
    found = [[expected[0][0] + added]]
    least = least_sizes(detector(), ["map"], TOLERANCE)
    assert (largest(found, expected, least) > TOLERANCE) is refused


def test_only_probabilities_have_a_least_size() -> None:
    m = Maker()
    m.edge("x", ["batch", 8])
    m.constant("axes", np.array([1], np.int64))
    m.node("Softmax", ["x"], "p")
    m.node("Unsqueeze", ["p", "axes"], "moved")
    m.node("Tanh", ["x"], "t")
    m.node("Mul", ["p", "t"], "product")
    sizes = least_sizes(m.model(), ["p", "moved", "t", "product", "x"], 0.5)
    assert sizes == [2 * ROUNDING, 2 * ROUNDING, 0, 0, 0]


def test_an_axis_whose_name_is_a_formula_is_called_by_its_place(tmp_path: Path) -> None:
    """As torch writes what it knows of a size: the same formula is the same axis, in inputs too."""
    long = "floor(floor(height/2 - 1/2)/2) + 1)*(" * 8
    m = Maker()
    m.edge("a", ["batch", long])
    m.edge("b", ["batch", long])
    m.node("Add", ["a", "b"], "sum")
    m.given("sum", ["batch", long])
    onnx.save(m.model(), tmp_path / "long.onnx")
    traced = open_file(str(tmp_path / "long.onnx"), Options(None, None), tmp_path)
    edges = (*traced.task.inputs, *traced.task.outputs)
    assert [edge.shape for edge in edges] == [("batch", "a_1")] * 3
    for feed in islice(traced.examples(0), 3):
        assert feed["a"].shape == feed["b"].shape
    export(tmp_path / "long.onnx", out=tmp_path / "bundle", recipe="fp32", check=True)


def test_axes_that_are_a_question_mark_are_not_one(tmp_path: Path) -> None:
    """As PaddlePaddle's converter writes height and width: lines of text are no squares."""
    m = Maker()
    m.edge("x", ["-1", 3, "?", "?"])
    m.node("Conv", ["x", m.weight("w", 4, 3, 3, 3)], "y", pads=[1, 1, 1, 1])
    m.given("y", ["-1", 4, "?", "?"])
    onnx.save(m.model(), tmp_path / "paddle.onnx")
    export(tmp_path / "paddle.onnx", out=tmp_path / "bundle", recipe="fp32", check=True)
    model = load(tmp_path / "bundle")
    assert model.run({"x": np.zeros((2, 3, 6, 10), np.float32)})["y"].shape == (2, 4, 6, 10)


def rates() -> onnx.ModelProto:
    """A rate of samples that chooses a branch, and a state whose rows the file has no name for: Silero VAD 6 is so."""
    m = Maker(16)
    m.edge("sound", [None, None])  # type: ignore[list-item]  # onnx takes None for what is not known
    m.edge("state", [2, None, 4])  # type: ignore[list-item]
    m.edge("rate", [], TensorProto.INT64)
    m.constant("wide", np.array(16000, np.int64))
    m.constant("axes", np.array([2], np.int64))
    m.constant("last", np.array([1], np.int64))
    m.node("Equal", [m.node("Identity", ["rate"], "same"), "wide"], "is_wide")
    branches = {}
    for name, width in (("then_branch", 4), ("else_branch", 2)):
        inner = Maker(16)
        inner.node("MatMul", ["pooled", inner.weight(f"{name}.w", 1, width * 2)], f"{name}.y")
        inner.node("ReduceSum", [f"{name}.y", "last"], f"{name}.given", keepdims=1)
        inner.given(f"{name}.given", [None, 1])  # type: ignore[list-item]
        branches[name] = inner.model().graph
    m.node("ReduceMean", ["sound"], "pooled", axes=[1], keepdims=1)
    chosen = m.node("If", ["is_wide"], "chosen", **branches)
    sums = m.node("ReduceSum", ["state", "axes"], "sums", keepdims=0)  # (2, batch)
    turned = m.node("Transpose", [sums], "turned", perm=[1, 0])
    m.given(m.node("Concat", [turned, chosen], "answer", axis=1), [None, 3])  # type: ignore[list-item]
    return m.model()


def test_axes_and_numbers_that_a_file_does_not_name_are_found(tmp_path: Path) -> None:
    """The state has the batch's rows, and both branches are computed when the export compares."""
    model = rates()
    assert numbers_looked_for(model) == {"rate": (16000,)}
    onnx.save(model, tmp_path / "rates.onnx")
    traced = open_file(str(tmp_path / "rates.onnx"), Options(None, None), tmp_path)
    batch = traced.task.input("sound").shape[0]
    assert traced.task.input("state").shape == (2, batch, 4)
    feeds = list(islice(traced.examples(0), 4))
    assert [int(feed["rate"]) == 16000 for feed in feeds] == [True, True, False, False]
    assert [feed["state"].shape[1] for feed in feeds] == [1, 2, 1, 2]
    manifest = export(tmp_path / "rates.onnx", out=tmp_path / "bundle", recipe="fp32", check=True)
    assert manifest.parity is not None
    assert manifest.parity["feeds"] == 3
    assert load(tmp_path / "bundle").task.choices == {"rate": (16000,)}


@given(st.integers(0, 5), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_only_numbers_that_an_input_is_compared_with_count(moves: int, numbers: list[int]) -> None:
    m = Maker()
    m.edge("n", [], TensorProto.INT64)
    value = "n"
    for index in range(moves):
        value = m.node("Identity", [value], f"v{index}")
    for index, number in enumerate(numbers):
        m.constant(f"c{index}", np.array(number, np.int64))
        m.node("Equal", [value, f"c{index}"] if index % 2 else [f"c{index}", value], f"e{index}")
    m.constant("half", np.array(2, np.int64))
    m.node("Equal", [m.node("Mul", [value, "half"], "twice"), "half"], "other")  # of something else
    assert numbers_looked_for(m.model()).get("n", ()) == tuple(dict.fromkeys(numbers))


def test_a_constant_that_is_not_finite_stays_float(tmp_path: Path) -> None:
    """As JAX writes the largest of a row: Max(-inf, …), which no integer can hold (Magika)."""
    m = Maker()
    m.edge("x", ["batch", 8])
    m.constant("lowest", np.array(-np.inf, np.float32))
    product = m.node("MatMul", ["x", m.weight("w", 8, 16)], "product")
    largest = m.node("ReduceMax", [m.node("Max", ["lowest", product], "bounded")], "largest", axes=[1], keepdims=1)
    m.node("MatMul", [m.node("Sub", [product, largest], "below"), m.weight("v", 16, 4)], "y")
    m.given("y", ["batch", 4])
    onnx.save(m.model(), tmp_path / "jax.onnx")
    seen = tmp_path / "seen.npz"
    np.savez(seen, x=np.random.default_rng(0).standard_normal((64, 2, 8)).astype(np.float32))
    export(tmp_path / "jax.onnx", out=tmp_path / "bundle", recipe="int8-static", calibration=[seen], check=True)
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.parity is not None
    assert manifest.parity["outputs"]["y"]["sqnr_db"] > 25
    graph = onnx.load(tmp_path / "bundle" / "model.onnx").graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    (node,) = [node for node in graph.node if node.op_type == "Max"]
    assert "QuantizeLinear" not in {makers.get(name) for name in node.input}


def test_samples_may_have_one_number_each(tmp_path: Path) -> None:
    """A rate for each sample is an array of them: the graph still gets a tensor."""
    onnx.save(rates(), tmp_path / "rates.onnx")
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "seen.npz",
        sound=random.standard_normal((4, 1, 16)).astype(np.float32),
        state=random.standard_normal((4, 2, 1, 4)).astype(np.float32),
        rate=np.array([16000, 8000, 16000, 8000]),
    )
    file, seen = tmp_path / "rates.onnx", tmp_path / "seen.npz"
    manifest = export(file, out=tmp_path / "bundle", recipe="int8-static", calibration=[seen], check=True)
    assert manifest.parity is not None
    assert manifest.parity["feeds"] == 3 + 4
