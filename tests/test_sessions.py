"""Integer products are exact on every processor: on this one, and where they would saturate without us.

``tests/targets/test_emulator_x86.py`` runs this file on an emulated processor with AVX2 and no VNNI.
"""

import ast
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import product_models as made
import pytest
from onnx.reference import ReferenceEvaluator

from edgepress import sessions
from edgepress.sessions import open_on_cpu, open_unfused, saturates, session_options
from edgepress.targets.emulator import model as any_model

ROOT = Path(__file__).resolve().parent.parent
OPENED_IN = "src/edgepress/sessions.py"
every_product = pytest.mark.parametrize("name", made.CASES)


def is_right(case: made.Case, found: np.ndarray) -> bool:
    difference = np.abs(found.astype(np.float64) - case.expected.astype(np.float64)).max()
    return bool(difference <= case.tolerance)


def run_plainly(case: made.Case) -> np.ndarray:
    """As a user who knows of no option."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], case.feed)[0])


@every_product
def test_products_are_exact_on_this_processor(name: str) -> None:
    case = made.CASES[name]()
    if not case.repaired and saturates():
        pytest.skip("onnxruntime 1.31 has no exact kernel that takes this model as it is; `check` says so")
    unfused = case.fails and saturates()
    session = open_unfused(case.model, session_options()) if unfused else open_on_cpu(case.model)
    assert is_right(case, session.run(["y"], case.feed)[0])


@every_product
def test_a_plain_session_saturates_where_the_probe_says_so_and_nowhere_else(name: str) -> None:
    case = made.CASES[name]()
    assert is_right(case, run_plainly(case)) != (case.saturates and saturates())


@pytest.mark.parametrize("name", ["MatMulInteger", "MatMulInteger of int8", "ConvInteger", "MatMul in QDQ"])
def test_what_is_expected_is_what_onnx_says(name: str) -> None:
    case = made.CASES[name]()
    assert is_right(case, ReferenceEvaluator(onnx.load_from_string(case.model)).run(["y"], case.feed)[0])


def test_what_is_expected_cannot_be_reached_in_16_bits() -> None:
    """The cases show something: their sums of two products lie outside int16."""
    case = made.CASES["MatMulInteger"]()
    w = onnx.numpy_helper.to_array(onnx.load_from_string(case.model).graph.initializer[0]).astype(int)
    pairs = case.feed["x"][:, 0:1].astype(int) * w[0] + case.feed["x"][:, 1:2].astype(int) * w[1]
    assert pairs.min() > np.iinfo(np.int16).max


def test_the_probe_is_the_product_that_it_says() -> None:
    model = onnx.load_from_string(sessions._two_products())
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMulInteger"]
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    assert kinds == {"x": onnx.TensorProto.UINT8, "w": onnx.TensorProto.INT8}
    feed = {"x": np.full((1, 2), 255, np.uint8), "w": np.full((2, 1), 127, np.int8)}
    assert ReferenceEvaluator(model).run(["y"], feed)[0] == 64770


def test_the_option_is_set_where_it_is_needed_alone() -> None:
    """With VNNI it changes no bit, and products take 2.6 times as long."""
    options = session_options()
    try:
        found = options.get_session_config_entry(sessions.EXACT_PRODUCTS)
    except RuntimeError:
        found = "0"
    assert found == str(int(saturates()))


def test_arm_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    saturates.cache_clear()
    try:
        assert not saturates()
    finally:
        saturates.cache_clear()


def test_a_model_that_the_option_cannot_be_applied_to_is_opened_and_computed_right(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sessions, "saturates", lambda: True)
    case = made.CASES["MatMul in QDQ, a shared weight"]()
    options = session_options()
    with pytest.raises(Exception, match="replace the existing tensor"):  # should this fail, onnxruntime has mended it
        onnxruntime.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
    assert is_right(case, open_on_cpu(case.model, options).run(["y"], case.feed)[0])
    assert "in integers they would saturate on this processor" in caplog.text
    entries = [options.get_session_config_entry(key) for key in (sessions.EXACT_PRODUCTS, sessions.UNFUSED)]
    assert entries == ["1", "0"]  # as they were for the next model


def test_products_that_may_saturate_all_the_same_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sessions, "saturates", lambda: True)
    open_on_cpu(made.CASES["MatMulInteger, twice"]().model)
    assert "as those of MatMulInteger may; give each node a weight and a zero point of its own" in caplog.text


def test_a_model_that_cannot_be_run_with_the_option_is_run_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for module in (sessions, any_model):
        monkeypatch.setattr(module, "saturates", lambda: True)
    case, path = made.CASES["Gemm in QDQ, no zero points"](), tmp_path / "m.onnx"
    path.write_bytes(case.model)
    with pytest.raises(Exception, match="x_zero_point must be null or 1D"):  # should this fail, it has been mended
        open_on_cpu(path).run(["y"], case.feed)
    _, outputs = any_model.run_model({"model": str(path), "batch": None, "threads": 1}, case.feed)
    assert is_right(case, outputs["y"])
    assert "in integers they would saturate on this processor" in caplog.text


def test_a_model_that_is_none_gives_onnxruntimes_own_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for answer in (False, True):
        monkeypatch.setattr(sessions, "saturates", lambda answer=answer: answer)
        with pytest.raises(Exception, match=r"no\.onnx"):
            open_on_cpu(tmp_path / "no.onnx")


def test_every_session_of_ours_is_opened_here() -> None:
    opened = []
    for folder in ("src/edgepress", "runtime", "targets", "exporter", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                if isinstance(called, ast.Attribute) and called.attr in {"InferenceSession", "SessionOptions"}:
                    opened.append(str(path.relative_to(ROOT)))
    assert set(opened) == {
        OPENED_IN,
        "targets/providers/sessions.py",  # on a provider of its own
        "benchmarks/peers/optimum_apart.py",  # a peer, in an environment that has no edgepress
    }
    assert opened.count("targets/providers/sessions.py") == 1
