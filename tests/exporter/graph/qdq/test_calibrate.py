"""Ranges: what is counted, what the operators fix, what is tied, and what a Softmax makes of masked scores."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from qdq_models import block, block_feed, save_model

from edgepress.errors import InputError
from edgepress.exporter.graph.qdq import Calibrator, calibrate
from edgepress.exporter.recipe.recipe import Activations

MINMAX16, MINMAX8 = Activations("uint16", "minmax"), Activations("uint8", "minmax")


def network(path: Path) -> Path:
    random = np.random.default_rng(1)
    constants = {
        "w": random.standard_normal((8, 6)).astype(np.float32),
        "extra": np.array([[-9.0, 2.0]], np.float32),
        "shape": np.array([2, 3]),
    }
    nodes = [
        ("MatMul", ["x", "w"], "y", {}),
        ("Relu", ["y"], "relu", {}),
        ("Reshape", ["relu", "shape"], "reshaped", {}),
        ("Sigmoid", ["y"], "sigmoid", {}),
        ("Tanh", ["y"], "tanh", {}),
        ("Concat", ["tanh", "extra"], "joined", {"axis": 1}),
    ]
    outputs = {"reshaped": (2, 3), "sigmoid": (1, 6), "joined": (1, 8)}
    return save_model(path, nodes, {"x": (1, 8)}, outputs, constants)


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(5)
    return [{"x": random.standard_normal((1, 8)).astype(np.float32)} for _ in range(count)]


def test_minmax_is_what_the_reference_evaluator_sees(tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx")
    found = calibrate(path, feeds(20), MINMAX8)
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info("y", 1, [1, 6]))
    evaluator = ReferenceEvaluator(model)
    seen = np.array([evaluator.run(["y"], feed)[0] for feed in feeds(20)])
    assert found["y"] == pytest.approx((seen.min(), seen.max()), rel=1e-5)
    inputs = np.array([feed["x"] for feed in feeds(20)])
    assert found["x"] == pytest.approx((inputs.min(), inputs.max()))
    assert found["relu"] == found["reshaped"] == pytest.approx((0, seen.max()), rel=1e-5)


def test_operators_that_bound_their_outputs_fix_the_range_and_concat_ties(tmp_path: Path) -> None:
    found = calibrate(network(tmp_path / "m.onnx"), feeds(3), MINMAX16)
    assert found["sigmoid"] == (0, 1 - 2**-16)
    assert found["tanh"] == found["extra"] == found["joined"] == (-9, 2)  # one scale for all, constants among them


@pytest.mark.parametrize("kind", ["percentile", "mse", "entropy"])
def test_other_ranges_clip_what_nodes_make_and_never_what_comes_in(kind: str, tmp_path: Path) -> None:
    calibrator = Calibrator(network(tmp_path / "m.onnx"))
    for feed in feeds(400):
        calibrator.run(feed)
    plain = calibrator.ranges(MINMAX8)
    found = calibrator.ranges(Activations("uint8", kind, percentile=99.0))
    assert found["x"] == plain["x"]
    assert plain["y"][0] <= found["y"][0] <= 0 <= found["y"][1] <= plain["y"][1]
    if kind == "percentile":
        assert found["y"][0] > plain["y"][0]
        assert found["y"][1] < plain["y"][1]


@pytest.mark.parametrize("settings", [MINMAX16, MINMAX8])
def test_masked_scores_do_not_stretch_the_range(settings: Activations, tmp_path: Path) -> None:
    path = block(tmp_path / "m.onnx")
    found = calibrate(path, (block_feed(seed) for seed in range(20)), settings)
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info("scores", 1, [1, 4, 4, 15]))
    evaluator = ReferenceEvaluator(model)
    scores = np.array([evaluator.run(["scores"], block_feed(seed))[0] for seed in range(20)])
    bits = 16 if settings is MINMAX16 else 8
    low = scores.max(-1).min() - np.log(15 * 2.0**bits)
    assert scores.min() < -9000
    assert found["scores"] == pytest.approx((low, scores.max()), rel=1e-4)
    # A mask need not reach further than where every sum is clipped, and costs no more steps than scores do.
    assert found["mask"] == pytest.approx((low - found["scores.h"][1], 0))
    # What is cut off is less than a step of the probabilities, in every row.
    exact = np.exp(scores - scores.max(-1, keepdims=True))
    cut = np.exp(np.maximum(scores, low) - scores.max(-1, keepdims=True))
    assert np.abs(exact / exact.sum(-1, keepdims=True) - cut / cut.sum(-1, keepdims=True)).max() < 2.0**-bits


def test_a_run_returns_the_models_own_outputs(tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx")
    found = Calibrator(path).run(feeds(1)[0])
    expected = ReferenceEvaluator(onnx.load(path)).run(None, feeds(1)[0])
    assert list(found) == ["reshaped", "sigmoid", "joined"]
    for seen, truth in zip(found.values(), expected, strict=True):
        assert np.allclose(seen, truth, atol=1e-5)


def test_no_data_and_bad_data_are_named(tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="give calibration data"):
        calibrate(path, [], MINMAX8)
    with pytest.raises(InputError, match="NaN or infinite"):
        calibrate(path, [{"x": np.full((1, 8), np.nan, np.float32)}], MINMAX8)
