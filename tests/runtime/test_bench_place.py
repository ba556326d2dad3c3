"""A measurement says on what it ran, and fits what runs: an accelerator's graphs may hold less than the CPU's."""

import json
import sys
from pathlib import Path

import onnx
import product_models as made
import pytest
import tiny_models
from hybrid_bundle import write_hybrid

from edgepress import cli
from edgepress.bundle.manifest import MANIFEST_NAME
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.bundle.forms import static
from edgepress.runtime import Measurement, bench, format_measurement, load
from edgepress.runtime.graph_file import saturation

NPU_CONTEXT, CPU_CONTEXT = 48, 128
FEW = {"repetitions": 1, "warmup": 0, "threads": 1, "prepared": False, "decode_tokens": 4}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the CPU with its whole context, and for an NPU with less."""
    pytest.importorskip("onnxruntime_qnn", reason="the QNN provider is not installed: pip install 'edgepress[qnn]'")
    folder = tmp_path_factory.mktemp("place")
    recipe = folder / "recipe.toml"
    recipe.write_text("[weights]\nbits = 32\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static, "LONGEST", NPU_CONTEXT)
        export(
            tiny_models.save("llama", folder / "llama"),
            out=folder / "bundle",
            recipe=recipe,
            target=["qnn-htp"],
            socs=["sm8650"],
            threads=1,
        )
    return folder / "bundle"


def test_an_npus_graphs_are_measured_within_the_context_that_they_hold(bundle: Path) -> None:
    assert load(bundle, on="cpu").context == CPU_CONTEXT
    found = bench(bundle, on="qnn-htp", soc="sm8650", **FEW)  # type: ignore[arg-type]
    assert found.settings.context == NPU_CONTEXT
    assert [prefill.length for prefill in found.prefill] == [NPU_CONTEXT - 4]  # what they leave of 64 and 256
    assert found.settings.prefill_chunk == load(bundle, on="qnn-htp", soc="sm8650").session.prefill_chunk


def test_a_measurement_says_on_what_it_ran(bundle: Path) -> None:
    on_npu = bench(bundle, on="qnn-htp", prompt_lengths=[8], **FEW)  # type: ignore[arg-type]
    ran_on = {
        "provider": "QNNExecutionProvider",
        "target": "qnn-htp",
        "soc": "sm8650",
        "simulated": True,
        "graph": None,
    }
    assert json.loads(json.dumps(on_npu.to_json()))["ran_on"] == ran_on
    assert (
        "ran on         qnn-htp sm8650, simulated (QNNExecutionProvider): times are this machine's, not the chip's\n"
    ) in format_measurement(on_npu)
    on_cpu = bench(bundle, prompt_lengths=[8], **FEW)  # type: ignore[arg-type]
    assert on_cpu.settings.context == CPU_CONTEXT
    ran_on = {"provider": "CPUExecutionProvider", "target": "cpu", "soc": None, "simulated": False, "graph": None}
    assert on_cpu.to_json()["ran_on"] == ran_on
    assert "ran on         cpu (CPUExecutionProvider)\n" in format_measurement(on_cpu)


def test_what_does_not_fit_the_npu_is_refused_before_it_is_opened(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[Measurement.__module__], "load", None)
    with pytest.raises(InputError, match=f"64 tokens and 4 decoded ones do not fit in the context of {NPU_CONTEXT}"):
        bench(bundle, on="qnn-htp", prompt_lengths=[64], **FEW)  # type: ignore[arg-type]


def test_the_command_measures_an_npu(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", str(bundle), "--repetitions", "1", "--warmup", "0", "--decode-tokens", "4"]
    assert cli.main([*words, "--on", "qnn-htp", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ran_on"]["soc"] == "sm8650"
    assert said["settings"]["context"] == NPU_CONTEXT
    assert cli.main([*words, "--on", "openvino-npu"]) == 2
    assert "has no graphs for 'openvino-npu'" in capsys.readouterr().err


def test_the_remedy_for_a_target_that_does_not_exist_names_those_that_do(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nothing", "arm64-cpu"):  # neither has graphs of its own
        assert cli.main(["bench", str(plain), "--on", name]) == 2
        said = capsys.readouterr().err
        assert f"has no graphs for '{name}', it has those for cpu; name one of these, or export for qnn-htp" in said
    assert cli.main(["bench", str(plain), "--on", "qnn-htp"]) == 2
    assert "`edgepress export --target qnn-htp` makes them" in capsys.readouterr().err


def test_no_target_is_advised_for_a_model_that_no_static_graph_can_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_hybrid(tmp_path / "bundle")
    for name in ("qnn-htp", "openvino-npu"):
        assert cli.main(["run", str(bundle), "--on", name, "--prompt", "a"]) == 2
        said = capsys.readouterr().err
        assert f"has no graphs for '{name}', it has those for cpu; a model with convolution states runs on CPUs" in said


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for the CPU alone, with a graph beside it whose products saturate in a plain session."""
    folder = tmp_path_factory.mktemp("plain")
    export(tiny_models.save("llama", folder / "llama"), out=folder / "bundle", recipe="int8", threads=1)
    return folder / "bundle"


def test_bench_warns_where_a_users_own_session_would_saturate(
    plain: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(saturation, "saturates", lambda: True)
    assert saturation.saturation_warnings(plain) == ()  # our integer products are uint8 by uint8
    other = tmp_path / "bundle"
    other.mkdir()
    for path in plain.iterdir():
        if path.name != MANIFEST_NAME:
            (other / path.name).write_bytes(path.read_bytes())
    (other / "qnn-htp").mkdir()
    (other / "qnn-htp" / "decode.onnx").write_bytes(made.CASES["MatMul in QDQ"]().model)
    found = bench(other, prompt_lengths=[8], **FEW)  # type: ignore[arg-type]
    (warning,) = found.warnings
    assert warning.startswith(
        "qnn-htp/decode.onnx: in a plain onnxruntime session on this processor (AVX2 without VNNI)"
    )
    assert "session.x64quantprecision=1" in warning
    assert f"  warning        {warning}" in format_measurement(found)
    monkeypatch.setattr(saturation, "saturates", lambda: False)
    assert bench(other, prompt_lengths=[8], **FEW).warnings == ()  # type: ignore[arg-type]


CONSTANT = [name for name, make in made.CASES.items() if "computed" not in name and "of int8" not in name]


@pytest.mark.parametrize("name", CONSTANT)
def test_products_are_counted_without_onnx(name: str, tmp_path: Path) -> None:
    case, path = made.CASES[name](), tmp_path / "m.onnx"
    path.write_bytes(case.model)
    counted = saturation.count_products(path)
    readers = sum(node.op_type in {"MatMul", "Gemm", "Conv"} for node in onnx.load_from_string(case.model).graph.node)
    # `check` looks at weights and channels, this does not
    known_to_be_safe = any(
        word in name for word in ("7-bit", "pairs that fit", "depthwise", "Gemm in QDQ, no zero points")
    )
    readers = readers or (2 if "twice" in name else 1)
    assert counted == (readers if case.saturates or known_to_be_safe else 0)


def test_what_is_no_model_has_no_products(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 40)
    assert saturation.count_products(tmp_path / "m.onnx") == 0
    assert saturation.count_products(tmp_path / "absent.onnx") == 0
