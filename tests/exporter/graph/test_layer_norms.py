"""Layer norms that converters wrote as their parts: one node again, with the same outputs; what is none stays."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_models import Maker
from hypothesis import given
from hypothesis import strategies as st

from edgepress.exporter import export
from edgepress.exporter.graph.foreign.layer_norms import fuse_layer_norms
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.walk import opset
from edgepress.sessions import open_on_cpu

WIDTH = 24


def parts(
    *, square: str = "Pow", swapped: int = 0, version: int = 13, seen: str = "", axis: int = -1, gain: int = WIDTH
) -> onnx.ModelProto:
    """A product, a norm of it by its parts, a product; ``swapped`` has a bit for each sum or product turned around."""

    def both(a: str, b: str, bit: int) -> list[str]:
        return [b, a] if swapped >> bit & 1 else [a, b]

    m = Maker(version)
    m.edge("x", ["batch", "tokens", WIDTH])
    m.node("MatMul", ["x", m.weight("w", WIDTH, WIDTH)], "h")
    m.node("ReduceMean", ["h"], "mean", axes=[axis], keepdims=1)
    m.node("Sub", ["h", "mean"], "centred")
    m.constant("two", np.array(2, np.float32))
    m.constant("epsilon", np.array(1e-6, np.float32))
    m.constant("gain", np.linspace(0.5, 2, gain, dtype=np.float32))
    m.constant("bias", np.linspace(-1, 1, gain, dtype=np.float32))
    m.node(square, ["centred", "two" if square == "Pow" else "centred"], "squares")
    m.node("ReduceMean", ["squares"], "variance", axes=[axis], keepdims=1)
    m.node("Sqrt", [m.node("Add", both("variance", "epsilon", 0), "shifted")], "deviation")
    m.node("Div", ["centred", "deviation"], "normal")
    m.node("Add", both(m.node("Mul", both("normal", "gain", 1), "scaled"), "bias", 2), "normed")
    m.node("MatMul", ["normed", m.weight("v", WIDTH, 8)], "y")
    m.given("y", ["batch", "tokens", 8])
    if seen:
        m.given(seen, ["batch", "tokens", "any"])
    return m.model()


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    x = np.random.default_rng(0).standard_normal((2, 5, WIDTH)).astype(np.float32)
    return list(open_on_cpu(model.SerializeToString()).run(None, {"x": x}))


@given(st.sampled_from(["Pow", "Mul"]), st.integers(0, 7), st.sampled_from([13, 15, 17]))
def test_parts_are_one_node_with_the_same_outputs(square: str, swapped: int, version: int) -> None:
    model = parts(square=square, swapped=swapped, version=version)
    before = run(model)
    assert fuse_layer_norms(model, Weights()) == 1
    assert [node.op_type for node in model.graph.node] == ["MatMul", "LayerNormalization", "MatMul"]
    assert opset(model) == 17
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model)[0], before[0], rtol=0, atol=1e-5 * np.abs(before[0]).max())


@pytest.mark.parametrize(
    "other",
    [{"seen": "variance"}, {"seen": "centred"}, {"axis": 1}, {"gain": 1}],
    ids=["a part is an output", "what is centred is an output", "another axis", "one gain for all"],
)
def test_what_is_no_norm_over_the_last_axis_stays(other: dict[str, object]) -> None:
    model = parts(**other)  # type: ignore[arg-type]
    before = model.SerializeToString()
    assert fuse_layer_norms(model, Weights()) == 0
    assert model.SerializeToString() == before


def test_integers_keep_what_a_norm_gives(tmp_path: Path) -> None:
    """Rounded part by part, variances share 256 values: 15 dB are left of this; as one node 29."""
    onnx.save(parts(), tmp_path / "model.onnx")
    random, scales = np.random.default_rng(1), np.geomspace(0.5, 4, 32).astype(np.float32)
    seen = random.standard_normal((32, 1, 5, WIDTH)).astype(np.float32) * scales[:, None, None, None]
    np.savez(tmp_path / "seen.npz", x=seen)
    file, samples = tmp_path / "model.onnx", [tmp_path / "seen.npz"]
    manifest = export(file, out=tmp_path / "bundle", recipe="int8-static", calibration=samples, check=True)
    assert manifest.parity is not None
    assert manifest.parity["outputs"]["y"]["sqnr_db"] > 24
    graph = onnx.load(tmp_path / "bundle" / "model.onnx").graph
    assert "LayerNormalization" in {node.op_type for node in graph.node}
