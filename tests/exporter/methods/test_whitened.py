"""Coordinates in which products see white numbers, held against what they say and against training without them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.interpreter.network import Network
from edgepress.exporter.methods.narrower.taught.whitened import frames_of
from edgepress.exporter.streams.distilling import Match, Student, distil
from edgepress.terminal.progress import silent

CHANNELS, OUT = 6, 4
KINDS = ["Conv", "Gemm", "Gemm, transposed", "MatMul"]


def product(kind: str, weight: NDArray[np.float32]) -> onnx.ModelProto:
    """One product, x → y; ``weight`` is (out, in) or, of a convolution, (out, in, 3, 3)."""
    image = kind == "Conv"
    stored = weight if kind in ("Conv", "Gemm, transposed") else np.ascontiguousarray(weight.T)
    options: dict[str, object] = {"transB": 1} if kind == "Gemm, transposed" else {"pads": [1] * 4} if image else {}
    node = helper.make_node(kind.partition(",")[0], ["x", "w"], ["y"], **options)
    axes = ["n", CHANNELS, 5, 5] if image else ["n", CHANNELS]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in ("x", "y")]
    values[1].type.tensor_type.shape.dim[1].dim_value = OUT
    graph = helper.make_graph([node], "g", values[:1], values[1:], [numpy_helper.from_array(stored, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def uneven(image: bool, count: int = 40) -> list[dict[str, NDArray[np.float32]]]:
    """Channels that go together: the largest direction has 1,000 times the standard deviation of the least."""
    random = np.random.default_rng(3)
    turn = np.linalg.qr(random.normal(size=(CHANNELS, CHANNELS)))[0]
    mixer = turn * np.logspace(0, -3, CHANNELS)  # (channels, directions)
    places = (8, 5, 5) if image else (8,)
    made = [random.normal(size=(*places, CHANNELS)) @ mixer.T for _ in range(count)]
    return [{"x": np.ascontiguousarray(np.moveaxis(x, -1, 1), np.float32)} for x in made]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def weights(kind: str, seed: int) -> NDArray[np.float32]:
    shape = (OUT, CHANNELS, 3, 3) if kind == "Conv" else (OUT, CHANNELS)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_what_a_product_sees_is_white_in_its_frame(kind: str) -> None:
    """By numpy, patch by patch: the moments of C^(−1/2) x are 1 where C's eigenvalues are not small."""
    feeds = uneven(kind == "Conv")
    frame = frames_of(Network(product(kind, weights(kind, 0))), ["w"], feeds)["w"]
    x = np.concatenate([feed["x"] for feed in feeds]).astype(np.float64)
    if kind == "Conv":
        around = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        x = np.stack([around[:, :, i : i + 5, j : j + 5] for i in range(3) for j in range(3)], axis=2)
        x = x.transpose(0, 3, 4, 1, 2).reshape(-1, 9 * CHANNELS)  # (places, channels · kernel)
    second = x.T @ x / len(x)
    root = frame.root.numpy().astype(np.float64)
    mean = np.trace(second) / len(second)
    expected = np.linalg.inv(second / mean + 0.03 * np.eye(len(second)))
    np.testing.assert_allclose(root @ root, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_allclose(root, root.T, rtol=0, atol=1e-4)
    assert frame.rows_first == (kind in ("Conv", "Gemm, transposed"))


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"], indirect=True)
def test_training_in_frames_learns_more_in_as_many_steps(kind: str, tmp_path: Path) -> None:
    """The student begins where it is to the bit, and what lies in small directions is learned as what does not."""
    teacher = Network(product(kind, weights(kind, 0)))
    feeds = uneven(kind == "Conv")
    losses = []
    for framed in (False, True):
        student = Network(product(kind, weights(kind, 1)))
        frames = frames_of(student, ["w"], feeds) if framed else {}
        assert set(frames) == ({"w"} if framed else set())
        learner = Student.of(student, ["w"], 0.15, frames)
        torch.testing.assert_close(learner.constants()["w"], student.constants["w"], rtol=0, atol=0)
        training = distil(
            learner,
            teacher,
            feeds,
            [Match("y", "y")],
            name="test",
            state_file=tmp_path / str(framed),
            steps=150,
            batch=4,
            progress=silent,
        )
        changed = training.best["w"] - student.constants["w"]
        assert float(changed.abs().max()) > 0
        losses.append(training.least)
    assert losses[1] < 0.75 * losses[0]  # measured: 0.15


def test_what_several_nodes_read_or_groups_see_has_no_frame() -> None:
    model = product("MatMul", weights("MatMul", 0))
    model.graph.node.append(helper.make_node("MatMul", ["x", "w"], ["z"]))
    assert frames_of(Network(model), ["w"], uneven(image=False)) == {}
    grouped = product("Conv", weights("Conv", 0)[:, :3])
    grouped.graph.node[0].attribute.append(helper.make_attribute("group", 2))
    assert frames_of(Network(grouped), ["w"], uneven(image=True)) == {}
    assert frames_of(Network(product("MatMul", weights("MatMul", 0))), [], uneven(image=False)) == {}
