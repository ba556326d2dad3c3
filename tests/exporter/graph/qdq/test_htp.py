"""QDQ models on the HTP: every node of every form, by Qualcomm's own compiler and simulator."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from qdq_models import block, block_feed, decibels, save_model

from edgepress.exporter.graph.qdq import WIDTHS, Calibrator, quantize
from edgepress.exporter.recipe.recipe import Activations
from edgepress.sessions import open_on_cpu
from edgepress.targets import find_soc, find_target
from edgepress.targets.providers import qnn

pytest.importorskip("onnxruntime_qnn", reason="the QNN provider is not installed: pip install 'edgepress[qnn]'")

TARGET = find_target("qnn-htp")
FIVE_VERSIONS = [find_soc(TARGET, name) for name in ("sm8350", "sm8550", "sm8650", "sm8750", "sm8850")]
LEAST = {"a8w8": 18, "a16w8": 36, "a16w4": 36}  # dB between the HTP and the CPU, both on the same integers


def quantized(path: Path, name: str, feeds: list[dict[str, np.ndarray]]) -> onnx.ModelProto:
    calibrator = Calibrator(path)
    for feed in feeds:
        calibrator.run(feed)
    return quantize(path, calibrator.ranges(Activations(WIDTHS[name].activations, "minmax")), WIDTHS[name])


def on_cpu(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    outputs: list[np.ndarray] = open_on_cpu(model.SerializeToString()).run(None, feed)
    return outputs


@pytest.mark.parametrize("sequence", [4, 1])
@pytest.mark.parametrize("name", TARGET.qdq)
def test_a_decoder_runs_there_whole_and_computes_what_the_cpu_does(name: str, sequence: int, tmp_path: Path) -> None:
    path = block(tmp_path / "m.onnx", sequence=sequence)
    feeds = [block_feed(seed, sequence=sequence) for seed in range(40)]
    model = quantized(path, name, feeds)
    expected = on_cpu(model, feeds[5])
    for soc in FIVE_VERSIONS:
        session = qnn.open_session(model.SerializeToString(), soc)  # fails if a node is left to the CPU
        assert {node[3] for node in qnn.assignment(session)} == {qnn.PROVIDER}
        for truth, seen in zip(expected, session.run(None, feeds[5]), strict=True):
            assert decibels(truth, seen) > LEAST[name], soc.name


def convolutions(path: Path) -> tuple[Path, list[dict[str, np.ndarray]]]:
    """What CNNs and encoders have that decoders have not."""
    random = np.random.default_rng(4)
    constants = {
        "w": random.standard_normal((6, 3, 3, 3)).astype(np.float32) / 5,
        "b": random.standard_normal(6).astype(np.float32),
        "zero": np.float32(0),
        "six": np.float32(6),
        "gain": random.uniform(-1, 1.5, 6).astype(np.float32),
        "beta": random.standard_normal(6).astype(np.float32),
        "head": random.standard_normal((5, 6)).astype(np.float32),
        "bias": random.standard_normal(5).astype(np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    nodes = [
        ("Pad", ["x", "pads"], "padded", {}),
        ("Conv", ["padded", "w", "b"], "c", {}),
        ("Clip", ["c", "zero", "six"], "r", {}),
        ("MaxPool", ["r"], "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("GlobalAveragePool", ["p"], "g", {}),
        ("Flatten", ["g"], "f", {"axis": 1}),
        ("LayerNormalization", ["f", "gain", "beta"], "n", {"axis": -1}),
        ("LayerNormalization", ["n", "gain"], "n2", {"axis": -1}),
        ("Gelu", ["n2"], "e", {}),
        ("Gemm", ["e", "head", "bias"], "y", {"transB": 1}),
    ]
    save_model(path, nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 5)}, constants)
    return path, [{"x": random.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(30)]


@pytest.mark.parametrize("name", TARGET.qdq)
def test_convolutions_pools_layer_norms_and_gelus_run_there(name: str, tmp_path: Path) -> None:
    path, feeds = convolutions(tmp_path / "m.onnx")
    model = quantized(path, name, feeds)
    for soc in FIVE_VERSIONS:
        session = qnn.open_session(model.SerializeToString(), soc)
        seen = np.concatenate([session.run(None, feed)[0] for feed in feeds[:8]])
        truth = np.concatenate([on_cpu(model, feed)[0] for feed in feeds[:8]])
        assert decibels(truth, seen) > LEAST[name], soc.name


@pytest.mark.parametrize("name", TARGET.qdq)
def test_why_scales_are_positive_the_htp_computes_negative_ones_silently_wrong(name: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((16, 8)).astype(np.float32)
    nodes = [("MatMul", ["x", "w"], "y", {})]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (1, 4, 16)}, {"y": (1, 4, 8)}, {"w": weight})
    feeds = [{"x": random.standard_normal((1, 4, 16)).astype(np.float32)} for _ in range(9)]
    model = quantized(path, name, feeds)
    turned = onnx.ModelProto()
    turned.CopyFrom(model)
    for tensor in turned.graph.initializer:
        if tensor.name == "w.weight1.scale":
            scale = numpy_helper.to_array(tensor)
            assert (scale > 0).all()
            tensor.CopyFrom(numpy_helper.from_array(-scale, tensor.name))
    expected = on_cpu(turned, feeds[0])[0]
    assert decibels(expected, -on_cpu(model, feeds[0])[0]) > (25 if name == "a8w8" else 50)
    found = qnn.open_session(turned.SerializeToString(), FIVE_VERSIONS[2]).run(None, feeds[0])[0]
    assert decibels(expected, found) < 3  # should this fail, the HTP has learned it, and Rounded may take them
