"""The OpenVINO provider on this machine's CPU: what it takes, in which precision, and what it cannot do."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import npu_models
import numpy as np
import onnx
import pytest

from edgepress import cli
from edgepress.errors import InputError
from edgepress.processor import cpu_info
from edgepress.targets import find_soc, find_target
from edgepress.targets.legality import asked
from edgepress.targets.legality.asked import place_all
from edgepress.targets.providers import openvino
from edgepress.targets.providers.sessions import assignment

pytest.importorskip(
    "onnxruntime_ep_openvino", reason="the OpenVINO provider is not installed: pip install 'edgepress[openvino]'"
)

X = {"x": np.random.default_rng(1).standard_normal((1, 16, 64)).astype(np.float32)}


def packed_product() -> onnx.ModelProto:
    """MatMulNBits of x (1, 16, 64) with 4-bit weights in blocks of 32."""
    random = np.random.default_rng(0)
    graph = npu_models.Graph()
    codes = graph.constant("codes", random.integers(0, 256, (32, 2, 16)).astype(np.uint8))
    scales = graph.constant("scales", (random.uniform(0.5, 1, (32, 2)) / 8).astype(np.float32))
    sizes = {"K": 64, "N": 32, "bits": 4, "block_size": 32}
    graph.node("MatMulNBits", ["x", codes, scales], "y", domain="com.microsoft", **sizes)
    return graph.model({"x": (1, 16, 64)}, {"y": (1, 16, 32)})


def float_product() -> onnx.ModelProto:
    graph = npu_models.Graph()
    w = graph.constant("w", np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32))
    graph.node("MatMul", ["x", w], "y")
    return graph.model({"x": (1, 16, 64)}, {"y": (1, 16, 64)})


@pytest.mark.parametrize(
    ("model", "least"),
    [
        (lambda: npu_models.projection("uint8", "int8"), 30),
        (lambda: npu_models.projection("uint8", "int8", layout="channel"), 30),
        (packed_product, 100),
        (float_product, 100),
    ],
    ids=["int8", "int8 per channel", "MatMulNBits", "float32"],
)
@pytest.mark.usefixtures("openvino_cpu")
def test_openvino_takes_every_node_and_computes_what_the_cpu_provider_does(
    model: Callable[[], onnx.ModelProto], least: float
) -> None:
    made = model()
    session = openvino.open_session(made.SerializeToString())
    assert {provider for *_, provider in assignment(session)} == {openvino.PROVIDER}
    assert npu_models.decibels(npu_models.on_cpu(made, X), session.run(None, X)[0]) > least


@pytest.mark.usefixtures("openvino_cpu")
def test_precision_is_what_was_asked_for() -> None:
    made = float_product()
    truth = npu_models.on_cpu(made, X)
    in_float32, in_float16 = (
        openvino.open_session(made.SerializeToString(), fp16=fp16).run(None, X)[0] for fp16 in (False, True)
    )
    assert npu_models.decibels(truth, in_float32) > 100
    if "FP16" in openvino._registered()[0].ep_metadata["OPTIMIZATION_CAPABILITIES"]:
        assert 50 < npu_models.decibels(truth, in_float16) < 90


@pytest.mark.usefixtures("openvino_cpu")
def test_a_node_that_openvino_leaves_is_an_error_and_check_finds_it(tmp_path: Path) -> None:
    graph = npu_models.Graph()
    graph.node("Det", [graph.node("Relu", ["x"], "r")], "y")
    made = graph.model({"x": (4, 3, 3)}, {"y": (4,)})
    with pytest.raises(InputError, match="OpenVINO does not take every node"):
        openvino.open_session(made.SerializeToString())
    onnx.save(made, tmp_path / "m.onnx")
    placements = place_all(tmp_path / "m.onnx", find_target("openvino-cpu"))
    assert [(p.op, p.runs_on) for p in placements] == [("Relu", openvino.PROVIDER), ("Det", "CPUExecutionProvider")]
    assert placements[1].cause == "op"


def test_there_is_no_npu_and_its_compiler_is_in_no_wheel() -> None:
    if any(device.device.type.name == "NPU" for device in openvino._registered()):
        pytest.skip("this machine has an NPU")
    with pytest.raises(InputError, match="finds no NPU on this machine: the NPU's compiler comes with Intel's driver"):
        openvino.open_session(b"", device="NPU")


def test_it_has_no_chips() -> None:
    with pytest.raises(InputError, match="leave sm8650 out"):
        openvino.open_session(b"", find_soc(find_target("qnn-htp"), "sm8650"))


@pytest.mark.usefixtures("openvino_cpu")
def test_a_broken_model_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"m\.onnx: OpenVINO makes no session"):
        openvino.open_session(tmp_path / "m.onnx")


def test_a_processor_of_another_maker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its provider has no device there, which onnxruntime would not explain."""
    monkeypatch.setattr(openvino, "_registered", list)
    monkeypatch.setattr(openvino, "cpu_name", lambda: "AMD EPYC 7763")
    with pytest.raises(InputError, match=r"finds no CPU .*takes Intel's processors only, and this is AMD EPYC 7763;"):
        openvino.open_session(float_product().SerializeToString())


def test_check_on_a_processor_of_another_maker_is_one_error_and_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class NoDevice:
        """A child whose OpenVINO finds nothing."""

        def __init__(self, timeout: float) -> None:
            del timeout

        def __enter__(self) -> "NoDevice":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def call(self, provider: str, question: str, **arguments: Any) -> dict[str, Any]:
            assert (provider, question) == ("openvino", "ask")
            return openvino.answer(question, **arguments)

    monkeypatch.setattr(openvino, "_registered", list)
    monkeypatch.setattr(asked, "Child", NoDevice)
    onnx.save(float_product(), tmp_path / "m.onnx")
    assert cli.main(["check", str(tmp_path / "m.onnx"), "--target", "openvino-cpu"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "takes Intel's processors only" in said.err


def test_this_machines_own_devices_decide() -> None:
    """Where the provider has a device, it is asked; where it has none, the error is the other's and not this one's."""
    if "CPU" in {device.device.type.name for device in openvino._registered()}:
        assert openvino._devices("CPU")
    else:
        assert cpu_info().get("vendor_id") != "GenuineIntel"


def test_a_missing_wheel_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(InputError, match=r"pip install 'edgepress\[openvino\]'"):
        openvino.version()
