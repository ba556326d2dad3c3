"""A detector's queries are a set: another order agrees and is said, a wrong, doubled or half-moved row does not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.bundle.manifest import read_manifest
from edgepress.cli import main
from edgepress.errors import CheckFailed
from edgepress.exporter.doors.comparing.agreement import check_agreement
from edgepress.exporter.doors.comparing.queries import Moved, in_order
from edgepress.exporter.doors.traced import TOLERANCE, Feed, Traced
from edgepress.exporter.export import export_traced
from edgepress.tasks.task import Edge, Task

IMAGES, QUERIES = 2, 40
Outputs = dict[str, NDArray[np.generic]]


@pytest.fixture
def outputs() -> Outputs:
    random = np.random.default_rng(5)
    return {
        "logits": random.standard_normal((IMAGES, QUERIES, 3)).astype(np.float32),
        "pred_boxes": random.random((IMAGES, QUERIES, 4), np.float32),
        "kinds": random.integers(0, 3, (IMAGES, QUERIES, 1)),
    }


def turned(outputs: Outputs, orders: NDArray[np.integer], names: tuple[str, ...] = ()) -> Outputs:
    """The rows of the outputs called so, or of all, in other orders, and floats off by less than a tolerance."""
    random = np.random.default_rng(6)
    moved: Outputs = {}
    for name, array in outputs.items():
        rows = np.stack([array[image, order] for image, order in enumerate(orders)])
        chosen = rows if not names or name in names else array
        noise = random.uniform(-5e-6, 5e-6, chosen.shape).astype(np.float32)
        moved[name] = chosen + noise if chosen.dtype.kind == "f" else chosen
    return moved


def orders(*turns: tuple[int, int]) -> NDArray[np.integer]:
    """The order of each image: of the first as it is, of the second with these rows changing places."""
    found = np.tile(np.arange(QUERIES), (IMAGES, 1))
    for one, other in turns:
        found[1, [one, other]] = found[1, [other, one]]
    return found


def test_another_order_is_put_back(outputs: Outputs) -> None:
    found, moved = in_order(turned(outputs, orders((3, 4), (10, 30))), outputs, "object-detection", TOLERANCE)
    assert moved == Moved(4, IMAGES * QUERIES)
    assert str(moved) == "as a set: 4 rows of 80 in another order"
    assert all(np.allclose(found[name], array, atol=1e-5) for name, array in outputs.items())


def test_any_order_is_put_back_of_rows_that_are_equal_too(outputs: Outputs) -> None:
    outputs = {name: np.concatenate([array, array[:, :5]], 1) for name, array in outputs.items()}
    random = np.random.default_rng(7)
    shuffled = np.stack([random.permutation(QUERIES + 5) for _ in range(IMAGES)])
    found, moved = in_order(turned(outputs, shuffled), outputs, "instance-segmentation", TOLERANCE)
    assert moved.rows > 60
    assert all(np.allclose(found[name], array, atol=1e-5) for name, array in outputs.items())


def wrong(outputs: Outputs) -> Iterator[tuple[str, Outputs]]:
    """What is no set of the same rows."""
    swapped = orders((3, 4))
    other = turned(outputs, swapped)
    other["pred_boxes"] = other["pred_boxes"].copy()
    other["pred_boxes"][1, 3, 2] += 0.01
    yield "a row that is wrong", other
    doubled = swapped.copy()
    doubled[1, 7] = 8
    yield "a row that came twice", turned(outputs, doubled)
    yield "one output moved alone", turned(outputs, swapped, ("logits",))
    number = turned(outputs, swapped)
    number["kinds"] = number["kinds"].copy()
    number["kinds"][1, 4, 0] += 1
    yield "another whole number", number
    nothing = turned(outputs, swapped)
    nothing["logits"] = nothing["logits"].copy()
    nothing["logits"][1, 3, 0] = np.nan
    yield "no number", nothing
    across = {name: array[::-1].copy() for name, array in outputs.items()}
    yield "rows of the other image", across


@pytest.mark.parametrize("case", range(6))
def test_what_is_no_set_of_the_same_rows_stays_as_it_is(case: int, outputs: Outputs) -> None:
    _, found = list(wrong(outputs))[case]
    kept, moved = in_order(found, outputs, "object-detection", TOLERANCE)
    assert kept is found
    assert moved == Moved()


def test_only_outputs_of_detectors_are_sets(outputs: Outputs) -> None:
    found = turned(outputs, orders((3, 4)))
    assert in_order(found, outputs, "token-classification", TOLERANCE)[0] is found
    one = {"scores": np.zeros((2, 3), np.float32)}
    assert in_order(one, one, "object-detection", TOLERANCE)[0] is one
    others = outputs | {"scores": outputs["logits"][:, 1:]}
    assert in_order(others, others, "object-detection", TOLERANCE)[1] == Moved()


def detector(folder: Path, spoiled: float = 0.0) -> Traced:
    """Two products over queries; its original has two of the queries the other way round, and one box off."""
    random = np.random.default_rng(8)
    weights = {name: random.standard_normal((16, n)).astype(np.float32) for name, n in (("logits", 3), ("boxes", 4))}
    shape = ("batch", QUERIES)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", f"{name}.weight"], [name]) for name in weights],
        "detector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*shape, 16])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [*shape, w.shape[1]]) for name, w in weights.items()],
        [numpy_helper.from_array(weight, f"{name}.weight") for name, weight in weights.items()],
    )
    file = folder / "detector.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), file)

    def compute(feed: Feed) -> Feed:
        order = np.r_[1, 0, 2:QUERIES]
        found = {name: (feed["x"].astype(np.float64) @ weight)[:, order] for name, weight in weights.items()}
        found["boxes"][:, 5] += spoiled
        return {name: array.astype(np.float32) for name, array in found.items()}

    def examples(seed: int) -> Iterator[Feed]:
        values = np.random.default_rng(seed)
        while True:
            yield {"x": values.standard_normal((IMAGES, QUERIES, 16)).astype(np.float32)}

    edges = tuple(Edge(name, "float32", (*shape, weight.shape[1])) for name, weight in weights.items())
    task = Task("object-detection", inputs=(Edge("x", "float32", (*shape, 16)),), outputs=edges)
    return Traced(file=file, model_type="detector", task=task, examples=examples, compute=compute)


def test_a_bundle_says_that_it_was_compared_as_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traced = detector(tmp_path)
    found = check_agreement(traced)
    assert found.share < 1e-6
    assert found.moved == Moved(16, 4 * IMAGES * QUERIES)
    export_traced(found.of(traced), out=tmp_path / "bundle", recipe="fp32", target="x86-cpu", check=True)
    parity = read_manifest(tmp_path / "bundle").parity
    assert parity is not None
    assert parity["queries"] == "as a set: 12 rows of 240 in another order"
    assert float(str(parity["float_difference"])) < 1e-6
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "bundle")]) == 0
    said = (
        "note         its outputs are compared as a set: 16 rows of 320 in another order, as queries that score alike"
    )
    assert said in capsys.readouterr().out


def test_a_detector_with_a_wrong_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"does not compute what the original computes: .* is off by"):
        check_agreement(detector(tmp_path, spoiled=0.1))
