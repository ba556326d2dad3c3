"""LSTMs in integers, against an LSTM written here in float64, and why some stay in floats."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_models import Maker, feed_of, save
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from edgepress.bundle.manifest import read_manifest
from edgepress.exporter import export
from edgepress.exporter.bundle.written.inspection import inspect
from edgepress.onnx_graph.files import parse_model
from edgepress.runtime import load
from edgepress.sessions import EXACT_PRODUCTS, session_options
from edgepress.targets import find_target
from edgepress.targets.legality.check import check_file

Matrix = NDArray[np.float64]
HIDDEN, READ = 256, 40
TARGETS = {"x86-cpu": "dynamic pairs", "arm64-cpu": "dynamic pairs", "wasm": "dynamic"}


def layer(hidden: int = HIDDEN, directions: int = 2, kind: str = "LSTM", turned: bool = False) -> onnx.ModelProto:
    """A recurrent layer over (sequence, batch, 40), and its last state; ``turned`` weights pass a node on their way."""
    m, gates = Maker(), {"LSTM": 4, "GRU": 3}[kind]
    m.edge("x", ["sequence", "batch", READ])
    w = m.weight("w", directions, gates * hidden, READ)
    m.weight("r", directions, gates * hidden, hidden)
    m.weight("b", directions, gates * hidden * 2)
    if turned:
        m.constant("all", np.array([0, 0, 0], np.int64))
        w = m.node("Reshape", [w, "all"], "w.same")
    direction = "bidirectional" if directions == 2 else "forward"
    m.node(kind, ["x", w, "r", "b"], ["y", "last"], hidden_size=hidden, direction=direction)
    m.given("y", ["sequence", directions, "batch", hidden])
    m.given("last", [directions, "batch", hidden])
    return m.model()


def run(model: onnx.ModelProto, x: Matrix) -> Matrix:
    """ONNX's LSTM (gates in the order i, o, f, c), (sequence, directions, batch, hidden)."""
    w, r, b = (onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer[:3])
    found = np.zeros((len(x), len(w), x.shape[1], r.shape[2]))
    for direction in range(len(w)):
        steps = range(len(x)) if direction == 0 else reversed(range(len(x)))
        h = c = np.zeros(found.shape[2:])
        for step in steps:
            gates = x[step] @ w[direction].T + h @ r[direction].T + sum(np.split(b[direction], 2))
            i, o, f = (1 / (1 + np.exp(-part)) for part in np.split(gates, 4, axis=1)[:3])
            c = f * c + i * np.tanh(np.split(gates, 4, axis=1)[3])
            h = o * np.tanh(c)
            found[step, direction] = h
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("directions", [1, 2])
def test_an_lstm_computes_in_integers(target: str, directions: int, tmp_path: Path) -> None:
    model = layer(directions=directions)
    file, feed = save(model, tmp_path / "m.onnx"), feed_of(model)
    manifest = export(file, out=tmp_path / "out", recipe="int8-dynamic", target=target, check=True, threads=1)
    form = TARGETS[target]
    assert {t["name"]: t["form"] for t in manifest.tensors} == {"w": form, "r": form, "b": "float"}
    operators = inspect(tmp_path / "out")["operators"]
    assert isinstance(operators, dict)
    assert operators["com.microsoft.DynamicQuantizeLSTM"] == 1
    assert "LSTM" not in operators
    found, expected = load(tmp_path / "out", prepared=False, threads=1).run(feed), run(model, feed["x"])
    for one in (found["y"] - expected, found["last"] - np.stack([expected[-1, 0], expected[0, -1]][:directions])):
        assert 0 < np.square(one).mean() < 10**-3 * np.square(expected).mean()  # 30 dB
    assert manifest.parity is not None
    assert (
        manifest.parity["graph_difference"] < 1e-4
    )  # activations as they are: what is stored is what is computed with


@pytest.mark.parametrize("directions", [1, 2])
def test_its_int8_codes_saturate_in_no_session(directions: int, tmp_path: Path) -> None:
    model = layer(directions=directions)
    export(save(model, tmp_path / "m.onnx"), out=tmp_path / "out", recipe="int8-dynamic", target="arm64-cpu", threads=1)
    file = tmp_path / "out" / "model.onnx"
    graph = parse_model(file).graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    assert {kinds[name] for name in kinds if name.endswith(".values")} == {onnx.TensorProto.INT8}
    assert check_file(file, find_target("x86-cpu")).products == ()
    found = []
    for exact in "01":  # the plain kernels of this processor, and those of uint8
        options = session_options(1)
        options.add_session_config_entry(EXACT_PRODUCTS, exact)
        found.append(InferenceSession(str(file), options, providers=["CPUExecutionProvider"]).run(None, feed_of(model)))
    assert all(np.array_equal(*pair) for pair in zip(*found, strict=True))


def test_weights_whose_pairs_do_not_fit_are_named_by_a_check(tmp_path: Path) -> None:
    model = layer(directions=1)
    export(save(model, tmp_path / "m.onnx"), out=tmp_path / "out", recipe="int8-dynamic", target="arm64-cpu", threads=1)
    data, file = tmp_path / "out" / "model.onnx.data", tmp_path / "out" / "model.onnx"
    [r] = [tensor for tensor in read_manifest(tmp_path / "out").tensors if tensor["name"] == "r"]
    offset, _ = r["regions"]["values"]  # type: ignore[index]
    content = bytearray(data.read_bytes())
    for column, code in ((1, 100), (2, 100)):  # of the first row: no pair, as it is 2j and 2j + 1 that are added up
        content[offset + column * 4 * HIDDEN] = code
    content[offset], content[offset + 3 * 4 * HIDDEN] = 28, 28
    data.write_bytes(content)
    assert check_file(file, find_target("x86-cpu")).products == ()
    content[offset] = 29
    data.write_bytes(content)
    [told] = check_file(file, find_target("x86-cpu")).products
    assert told.startswith("1 × DynamicQuantizeLSTM multiply uint8 by int8")


def test_an_lstm_of_which_one_weight_is_kept_computes_in_floats(tmp_path: Path) -> None:
    model, recipe = layer(), tmp_path / "mine.toml"
    recipe.write_text(
        '[weights]\nbits = 8\nblock_size = "channel"\n[activations]\ntype = "uint8"\nranges = "dynamic"\n'
        '[[override]]\nmatch = "r"\nbits = 32\n'
    )
    feed, file = feed_of(model), save(model, tmp_path / "m.onnx")
    export(file, out=tmp_path / "out", recipe=recipe, threads=1)
    graph = parse_model(tmp_path / "out" / "model.onnx").graph
    assert {node.op_type for node in graph.node} & {"LSTM", "DynamicQuantizeLSTM"} == {"LSTM"}
    (w, *_), w_before = model.graph.initializer, onnx.numpy_helper.to_array(model.graph.initializer[0])
    step = np.abs(w_before).max(2, keepdims=True) / 127
    found = load(tmp_path / "out", prepared=False, threads=1).run(feed)["y"]
    w.CopyFrom(onnx.numpy_helper.from_array((np.rint(w_before / step) * step).astype(np.float32), "w"))
    rounded = run(model, feed["x"])
    w.CopyFrom(onnx.numpy_helper.from_array(w_before, "w"))
    exact = run(model, feed["x"])
    # Scales are searched, so codes may be others than the nearest of that grid; the error is of that size.
    assert 0 < np.abs(found - exact).max() < 2 * np.abs(rounded - exact).max()


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (layer(hidden=128), "integers pay for LSTMs of 256 numbers or more, and this one has 128"),
        (layer(kind="GRU"), "onnxruntime has no GRU in integers"),
        (layer(turned=True), "other nodes move it on its way"),
    ],
)
def test_what_stays_in_floats_says_why(model: onnx.ModelProto, why: str, tmp_path: Path) -> None:
    manifest = export(save(model, tmp_path / "m.onnx"), out=tmp_path / "out", recipe="int8-dynamic", threads=1)
    (w,) = [tensor for tensor in manifest.tensors if tensor["name"] == "w"]
    assert (w["form"], str(w["reason"]).endswith(f"computed in float32: {why}")) == ("folded", True)
    feed = feed_of(model)
    if not why.endswith("GRU in integers"):
        found, expected = load(tmp_path / "out", prepared=False, threads=1).run(feed)["y"], run(model, feed["x"])
        assert np.square(found - expected).mean() < 10**-3 * np.square(expected).mean()
