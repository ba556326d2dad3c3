"""Whole graphs against onnxruntime: real models where they are, graphs inside nodes, parts, hooks, memory."""

import os
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from qdq_models import block, block_feed, save_model
from residual_network import IMAGES, residual_network

from edgepress.errors import InputError
from edgepress.exporter.interpreter.network import Feed, Hooks, Network, Step, arrays
from edgepress.sessions import open_on_cpu

DATA = Path(os.environ.get("EDGEPRESS_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


def difference(path: Path, feed: Feed) -> float:
    """The largest difference of an output from onnxruntime's, as a share of that output's largest value."""
    session, network = open_on_cpu(path), Network.read(path)
    found = arrays(next(network.batches([feed])))
    expected = session.run(None, dict(feed))
    names = [output.name for output in session.get_outputs()]
    return max(
        float(np.abs(found[name] - value).max() / np.abs(value).max())
        for name, value in zip(names, expected, strict=True)
    )


def test_a_decoder_layer(tmp_path: Path) -> None:
    assert difference(block(tmp_path / "block.onnx"), block_feed(3)) < 1e-5


@pytest.mark.parametrize("integer", [False, True])
def test_a_network_in_float_and_as_it_ships(tmp_path: Path, integer: bool) -> None:
    """Codes of the integer one may be a step apart where a product lies between two."""
    path = tmp_path / "model.onnx"
    onnx.save(residual_network(integer=integer), path)
    assert difference(path, {"image": IMAGES}) < (0.02 if integer else 1e-5)


def test_a_speech_model_that_no_one_here_wrote() -> None:
    """Silero's detector: If, Conv, LSTM, Pad; its part for 8 kHz is read too and not run."""
    path = DATA / "models/silero_vad/silero_vad_16k_op15.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    inputs = {i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in open_on_cpu(path).get_inputs()}
    sound = np.random.default_rng(1)
    feed = {name: sound.normal(0, 0.1, shape).astype(np.float32) for name, shape in inputs.items() if name != "sr"}
    feed["input"] = sound.normal(0, 0.1, (1, 576)).astype(np.float32)
    assert difference(path, feed | {"sr": np.array(16000)}) < 1e-4


def branches(path: Path) -> Path:
    """y = x is positive on average ? sum of 3 rounds of (s · x + w) : x − w; rounds are collected too."""

    def value(name: str, kind: int, shape: list[int] | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [
            helper.make_node("Mul", ["s", "x"], ["p"]),
            helper.make_node("Add", ["p", "w"], ["s.next"]),
            helper.make_node("Identity", ["go"], ["go.next"]),
            helper.make_node("Identity", ["s.next"], ["seen"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("s", TensorProto.FLOAT, [4])],
        [value("go.next", TensorProto.BOOL, []), value("s.next", TensorProto.FLOAT, [4]), value("seen", 1, [4])],
    )
    then = helper.make_graph(
        [
            helper.make_node("Loop", ["three", "", "x"], ["last", "all"], body=body),
            helper.make_node("ReduceSum", ["all", "zero"], ["then.y"], keepdims=0),
        ],
        "then",
        [],
        [value("then.y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.array(3), "three"), numpy_helper.from_array(np.array([0]), "zero")],
    )
    other = helper.make_graph(
        [helper.make_node("Sub", ["x", "w"], ["else.y"])], "else", [], [value("else.y", TensorProto.FLOAT, [4])]
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
            helper.make_node("Greater", ["mean", "nothing"], ["positive"]),
            helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
        ],
        "branches",
        [value("x", TensorProto.FLOAT, [4])],
        [value("y", TensorProto.FLOAT, [4])],
        [
            numpy_helper.from_array(np.arange(4, dtype=np.float32), "w"),
            numpy_helper.from_array(np.float32(0).reshape(()), "nothing"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_graphs_inside_nodes(tmp_path: Path) -> None:
    path, x = branches(tmp_path / "branches.onnx"), np.array([1, -2, 3, 0.5], np.float32)
    assert difference(path, {"x": x}) < 1e-6
    assert difference(path, {"x": -x}) < 1e-6
    w = torch.arange(4.0, requires_grad=True)
    Network.read(path).run({"x": torch.from_numpy(x)}, constants={"w": w})["y"].sum().backward()
    s = torch.from_numpy(x)  # of Σ_{r=1..3} s_r with s_r = s_{r−1} x + w: 3 + 2 x + x²
    assert w.grad is not None
    torch.testing.assert_close(w.grad, 3 + 2 * s + s * s)


def mlp(path: Path) -> Path:
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.standard_normal((6, 6)).astype(np.float32) for i in range(4)}
    nodes: list[tuple[str, list[str], str, dict[str, object]]] = []
    for i in range(4):
        nodes += [("MatMul", [f"h{i}", f"w{i}"], f"p{i}", {}), ("Relu", [f"p{i}"], f"h{i + 1}", {})]
    return save_model(path, nodes, {"h0": (2, 6)}, {"h4": (2, 6)}, weights)


def test_the_part_between_values(tmp_path: Path) -> None:
    network = Network.read(mlp(tmp_path / "mlp.onnx"))
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    whole = network.run({"h0": x}, ["h2", "h4"])
    assert [step.name for step in network.between(["h2"], ["h4"])] == ["node.4", "node.5", "node.6", "node.7"]
    torch.testing.assert_close(network.run({"h2": whole["h2"]}, ["h4"])["h4"], whole["h4"])
    with pytest.raises(InputError, match="h0 is neither given nor made by the graph"):
        network.run({"p2": x}, ["h1"])
    with pytest.raises(InputError, match="there is no h0 among the inputs x"):
        network.tensors({"x": np.zeros((2, 6), np.float32)})


def test_hooks_see_and_change_values(tmp_path: Path) -> None:
    network, seen = Network.read(mlp(tmp_path / "mlp.onnx")), []

    def made(name: str, value: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(value) if name == "h2" else value

    def read(step: Step, index: int, value: torch.Tensor) -> torch.Tensor:
        seen.append((step.name, index))
        return value * 2 if step.inputs[index] == "w3" else value

    x = torch.ones(2, 6)
    plain = network.run({"h0": x}, ["h4"], constants={"w3": network.constants["w3"] * 2})["h4"]
    torch.testing.assert_close(network.run({"h0": x}, ["h4"], hooks=Hooks(read=read))["h4"], plain)
    assert ("node.6", 1) in seen
    assert not network.run({"h0": x}, ["h4"], hooks=Hooks(made=made))["h4"].any()


def test_gradients_reach_weights(tmp_path: Path) -> None:
    """Against torch's own layers."""
    network = Network.read(mlp(tmp_path / "mlp.onnx"))
    weights = {name: value.clone().requires_grad_() for name, value in network.constants.items()}
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    network.run({"h0": x}, constants=weights)["h4"].square().sum().backward()
    again = [network.constants[f"w{i}"].clone().requires_grad_() for i in range(4)]
    y = x
    for weight in again:
        y = torch.relu(y @ weight)
    y.square().sum().backward()
    for i, weight in enumerate(again):
        torch.testing.assert_close(weights[f"w{i}"].grad, weight.grad)


def test_values_are_dropped_when_they_were_read(tmp_path: Path) -> None:
    network, alive = Network.read(mlp(tmp_path / "mlp.onnx")), []
    most = 0

    def made(_name: str, value: torch.Tensor) -> torch.Tensor:
        nonlocal most
        alive.append(weakref.ref(value))
        most = max(most, sum(one() is not None for one in alive))
        return value

    with torch.no_grad():
        network.run({"h0": torch.ones(2, 6)}, hooks=Hooks(made=made))
    assert most <= 3  # what is read, what is made, and the caller's own input
