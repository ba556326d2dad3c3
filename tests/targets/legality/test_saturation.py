"""What `check` says of integer products: the ones that saturate, and remedies that are so."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import product_models as made
import pytest

from edgepress import cli
from edgepress.onnx_graph.view import view
from edgepress.sessions import EXACT_PRODUCTS, REMEDY, UNFUSED
from edgepress.targets import find_target
from edgepress.targets.legality import saturation
from edgepress.targets.legality.check import check_file
from edgepress.targets.legality.report import format_report

every_product = pytest.mark.parametrize("name", made.CASES)


def said_of(name: str, target: str = "x86-cpu") -> list[str]:
    model = onnx.load_from_string(made.CASES[name]().model)
    return list(saturation.saturating_products(find_target(target), model, view(model)))


@every_product
def test_products_that_saturate_are_named_and_no_others(name: str) -> None:
    """``saturates`` is what an emulated processor does with the model (tests/test_sessions.py)."""
    found = said_of(name)
    assert len(found) == made.CASES[name]().saturates
    assert all("sums saturate at 16 bits in a plain onnxruntime session" in text for text in found)


@every_product
def test_the_remedy_that_is_named_opens_the_model_and_computes_it(name: str) -> None:
    case = made.CASES[name]()
    for text in said_of(name):
        helps = "does not help" not in text and "give each its own" not in text
        assert helps == case.repaired
        if not helps:
            continue
        option = UNFUSED if f"use {UNFUSED}=1" in text else EXACT_PRODUCTS
        assert option == UNFUSED or REMEDY in text
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(option, "1")
        session = onnxruntime.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
        difference = np.abs(session.run(["y"], case.feed)[0].astype(float) - case.expected.astype(float)).max()
        assert difference <= case.tolerance


def test_arm_has_no_such_products() -> None:
    assert said_of("MatMul in QDQ", "arm64-cpu") == []
    assert said_of("MatMul in QDQ", "android-cpu") == []


@pytest.mark.parametrize("here", [True, False])
def test_the_processor_that_is_here_is_named(here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "saturates", lambda: here)
    monkeypatch.setattr(saturation, "cpu_name", lambda: "AMD EPYC 7763")
    (text,) = said_of("MatMulInteger")
    assert f"this processor (AMD EPYC 7763) is {'one' if here else 'none of them'};" in text


def test_weights_in_a_data_file_are_read(tmp_path: Path) -> None:
    for name, said in {"MatMul in QDQ": ["7 bits"], "MatMulInteger, pairs that fit": []}.items():
        model = onnx.load_from_string(made.CASES[name]().model)
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
        found = check_file(tmp_path / "m.onnx", find_target("x86-cpu")).products
        assert [text.rpartition(" in ")[2] for text in found] == said


def test_a_pair_that_does_not_fit_is_named() -> None:
    model = onnx.load_from_string(made.CASES["MatMulInteger, pairs that fit"]().model)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    codes = onnx.numpy_helper.to_array(weight).copy()
    codes[1, 0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(codes, "w"))
    (text,) = saturation.saturating_products(find_target("x86-cpu"), model, view(model))
    assert "1 × MatMulInteger" in text


def test_a_weight_whose_bytes_do_not_fit_its_shape_is_no_traceback() -> None:
    model = onnx.load_from_string(made.CASES["MatMulInteger"]().model)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weight.raw_data = weight.raw_data[:-1]
    assert len(list(saturation.saturating_products(find_target("x86-cpu"), model, view(model)))) == 1


def test_the_command_says_it_in_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(made.CASES["Conv in QDQ"]().model)
    assert cli.main(["check", str(path), "--target", "x86-cpu"]) == 0
    assert "\ninteger products\n  1 × Conv multiply uint8 by int8: " in capsys.readouterr().out
    assert cli.main(["check", str(path), "--target", "x86-cpu", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["models"]
    assert report["products"][0] in format_report(check_file(path, find_target("x86-cpu")))
