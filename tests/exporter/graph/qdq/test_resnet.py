"""A real CNN: ResNet-20's top-1 on CIFAR-10 as int8, on the CPU, on the HTP and on emulated arm64."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from qdq_models import decibels

from edgepress.exporter.graph.qdq import WIDTHS, Calibrator, prepare, quantize
from edgepress.exporter.recipe.recipe import Activations
from edgepress.sessions import open_on_cpu
from edgepress.targets import find_soc, find_target
from edgepress.targets.emulator import Installation, compare_model

ROOT = Path(__file__).parents[4]
DATA = Path(os.environ.get("EDGEPRESS_DATA", ROOT.parent / "shared" / "data"))
WEIGHTS = DATA / "models/resnet_cifar10/resnet20.safetensors"
BATCH = 20

pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"{WEIGHTS} is not here; set EDGEPRESS_DATA")


class Network(NamedTuple):
    plain: Path
    int8: Path
    images: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="module")
def builder() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("resnet", ROOT / "benchmarks" / "resnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["resnet"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["resnet"]


@pytest.fixture(scope="module")
def network(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = tmp_path_factory.mktemp("resnet")
    builder.build_resnet(WEIGHTS, folder / "bn.onnx", batch=BATCH)
    prepare(folder / "bn.onnx", folder / "fp32.onnx")
    test, calibration = (np.load(DATA / f"vision/cifar10_{name}.npz") for name in ("test2000", "calibration1000"))
    images = builder.normalize(calibration["images"])
    calibrator = Calibrator(folder / "fp32.onnx")
    for start in range(0, 200, BATCH):
        calibrator.run({"images": images[start : start + BATCH]})
    ranges = calibrator.ranges(Activations("uint8", "mse"))
    onnx.save(quantize(folder / "fp32.onnx", ranges, WIDTHS["a8w8"]), folder / "int8.onnx")
    return Network(folder / "fp32.onnx", folder / "int8.onnx", builder.normalize(test["images"]), test["labels"])


def logits(session: Any, images: np.ndarray) -> np.ndarray:
    pieces = [session.run(None, {"images": images[at : at + BATCH]})[0] for at in range(0, len(images), BATCH)]
    return np.concatenate(pieces)


def test_batch_norms_are_folded_and_nothing_else_changes(network: Network) -> None:
    before, after = network.plain.with_name("bn.onnx"), network.plain
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(after).graph.node}
    found = [logits(open_on_cpu(path), network.images[:BATCH]) for path in (before, after)]
    assert np.allclose(*found, atol=1e-4)


def test_int8_top1_is_within_half_a_percent_of_float32(network: Network) -> None:
    top1 = {}
    for path in (network.plain, network.int8):
        found = logits(open_on_cpu(path), network.images)
        top1[path] = float((found.argmax(1) == network.labels).mean())
    assert top1[network.plain] == pytest.approx(0.9173, abs=0.015)  # as its authors measured on all 10,000
    assert abs(top1[network.int8] - top1[network.plain]) <= 0.005


def test_the_htp_computes_all_of_it_and_the_same(network: Network) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="the QNN provider is not installed: pip install 'edgepress[qnn]'")
    from edgepress.targets.providers import qnn

    session = qnn.open_session(network.int8, find_soc(find_target("qnn-htp"), "sm8650"))
    assert {node[3] for node in qnn.assignment(session)} == {qnn.PROVIDER}
    images = network.images[: 3 * BATCH]
    found, expected = logits(session, images), logits(open_on_cpu(network.int8), images)
    assert decibels(expected, found) > 20
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.95


@pytest.mark.usefixtures("one_start")
def test_emulated_arm64_computes_the_same_bits(network: Network, emulator: Installation) -> None:
    images = {"images": network.images[:BATCH]}
    for found in compare_model(emulator, network.int8, images, ["cortex-a76"], batch=BATCH):
        assert found.bit_equal, found.describe()
