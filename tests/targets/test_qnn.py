"""The QNN provider: chips, sessions and context binaries, on Qualcomm's own compiler and simulator."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import npu_models
import numpy as np
import onnx
import pytest

from edgepress.errors import InputError
from edgepress.targets import Soc, find_soc, find_target
from edgepress.targets.legality.traps import refuse_traps
from edgepress.targets.providers import qnn
from edgepress.targets.providers.child import Child

pytest.importorskip("onnxruntime_qnn", reason="the QNN provider is not installed: pip install 'edgepress[qnn]'")

TARGET = find_target("qnn-htp")
FIVE_VERSIONS = [find_soc(TARGET, name) for name in ("sm8350", "sm8550", "sm8650", "sm8750", "sm8850")]


def determinant() -> onnx.ModelProto:
    """An operator that the HTP does not have."""
    graph = npu_models.Graph()
    graph.node("Det", ["x"], "y")
    return graph.model({"x": (4, 3, 3)}, {"y": (4,)})


@pytest.fixture(scope="module")
def projection_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "projection.onnx"
    onnx.save(npu_models.projection("uint8"), path)
    return path


@pytest.mark.parametrize("soc", TARGET.socs, ids=lambda soc: soc.name)
def test_the_compiler_knows_each_chip_as_the_table_does(soc: Soc, projection_file: Path, tmp_path: Path) -> None:
    config = {"ep.context_enable": "1", "ep.context_file_path": str(tmp_path / "c.onnx"), "ep.context_embed_mode": "0"}
    qnn.open_session(projection_file, soc, config=config)
    binary = (tmp_path / "c_qnn.bin").read_bytes()
    assert f"soc_type={soc.name.upper()};arch={soc.arch};".encode() in binary
    assert {int(size) for size in re.findall(rb"vtcm_size=(\d+)", binary)} == {soc.vtcm_mb << 20}


@pytest.mark.parametrize("soc", TARGET.socs, ids=lambda soc: soc.name)
def test_the_compiler_takes_floats_where_the_table_says(soc: Soc) -> None:
    model = npu_models.float_layer().SerializeToString()
    if soc.float16:
        assert {provider for *_, provider in qnn.assignment(qnn.open_session(model, soc, fp16=True))} == {qnn.PROVIDER}
    else:
        with pytest.raises(InputError, match=soc.name):
            qnn.open_session(model, soc, fp16=True)


@pytest.mark.parametrize("soc", FIVE_VERSIONS, ids=lambda soc: soc.name)
def test_the_simulator_computes_what_the_cpu_does(soc: Soc) -> None:
    model = npu_models.projection("uint16", "int8")
    x = np.random.default_rng(1).standard_normal((1, 16, 64)).astype(np.float32)
    seen = qnn.open_session(model.SerializeToString(), soc).run(None, {"x": x})[0]
    assert npu_models.decibels(npu_models.on_cpu(model, {"x": x}), seen) > 45


def test_a_node_that_the_htp_leaves_is_an_error_unless_it_may_fall_back() -> None:
    model = determinant().SerializeToString()
    soc = find_soc(TARGET, "sm8650")
    with pytest.raises(InputError, match=r"sm8650 does not take every node; .*--soc sm8650"):
        qnn.open_session(model, soc, fp16=True)
    session = qnn.open_session(model, soc, fp16=True, fallback=True)
    assert qnn.assignment(session) == [("y", "Det", "", "CPUExecutionProvider")]


def test_float16_needs_a_chip() -> None:
    with pytest.raises(InputError, match="--soc"):
        qnn.open_session(b"", fp16=True)


def test_a_missing_wheel_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    with pytest.raises(InputError, match=re.escape("pip install 'edgepress[qnn]'")):
        qnn.version()


@pytest.mark.parametrize("soc", FIVE_VERSIONS, ids=lambda soc: soc.name)
def test_context_binaries_are_the_same_byte_for_byte(soc: Soc, projection_file: Path, tmp_path: Path) -> None:
    here = qnn.compile_context(projection_file, tmp_path / "a" / "c.onnx", soc, refuse=refuse_traps)
    elsewhere = tmp_path / "elsewhere" / projection_file.name
    elsewhere.parent.mkdir()
    shutil.copy(projection_file, elsewhere)
    there = qnn.compile_context(elsewhere, tmp_path / "b" / "c.onnx", soc, refuse=refuse_traps)
    for one, other in zip(here, there, strict=True):
        assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


def test_a_context_binary_computes_what_its_model_does(projection_file: Path, tmp_path: Path) -> None:
    soc = find_soc(TARGET, "sm8650")
    x = {"x": np.random.default_rng(1).standard_normal((1, 16, 64)).astype(np.float32)}
    compiled, _ = qnn.compile_context(projection_file, tmp_path / "c.onnx", soc, refuse=refuse_traps)
    from_binary = qnn.open_session(compiled, soc).run(None, x)[0]
    np.testing.assert_array_equal(from_binary, qnn.open_session(projection_file, soc).run(None, x)[0])


@pytest.mark.parametrize("soc", [FIVE_VERSIONS[0], FIVE_VERSIONS[-1]], ids=lambda soc: soc.name)
def test_two_graphs_share_their_weights_in_one_binary(soc: Soc, tmp_path: Path) -> None:
    for name, rows in (("prefill", 16), ("decode", 1)):
        onnx.save(npu_models.wide_projection(rows), tmp_path / f"{name}.onnx")
    models = [tmp_path / "prefill.onnx", tmp_path / "decode.onnx"]
    folders = [tmp_path / "one", tmp_path / "two"]
    shared = [
        qnn.compile_shared(models, [folder / "p.onnx", folder / "d.onnx"], soc, refuse=refuse_traps)
        for folder in folders
    ]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["d.onnx", "p.onnx", "p_qnn.bin"]
    assert [path.read_bytes() for path in shared[:1]] == [path.read_bytes() for path in shared[1:]]
    apart = [
        qnn.compile_context(model, tmp_path / f"{model.stem}.ctx.onnx", soc, refuse=refuse_traps)[1] for model in models
    ]
    weights = 512 * 512
    assert sum(path.stat().st_size for path in apart) - shared[0].stat().st_size > weights // 2


def test_graphs_that_share_must_lie_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one folder"):
        qnn.compile_shared(
            [tmp_path / "a" / "m.onnx", tmp_path / "m.onnx"],
            [tmp_path / "o.onnx"] * 2,
            TARGET.socs[0],
            refuse=refuse_traps,
        )


def test_a_failed_compilation_leaves_no_file(tmp_path: Path) -> None:
    onnx.save(determinant(), tmp_path / "no.onnx")
    out = tmp_path / "out" / "c.onnx"
    with pytest.raises(InputError, match=r"no\.onnx: the HTP of sm8650 does not take every node"):
        qnn.compile_context(tmp_path / "no.onnx", out, find_soc(TARGET, "sm8650"), refuse=refuse_traps)
    assert list(out.parent.iterdir()) == []
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"broken\.onnx \(8 bytes\) is no ONNX model"):
        qnn.compile_context(tmp_path / "broken.onnx", out, find_soc(TARGET, "sm8650"), refuse=refuse_traps)


def test_native_code_prints_nothing_on_stdout() -> None:
    program = (
        "from edgepress.targets import find_soc, find_target\n"
        "from edgepress.targets.providers import qnn\n"
        f"import sys; sys.path.insert(0, {str(Path(npu_models.__file__).parent)!r}); import npu_models\n"
        "model = npu_models.projection().SerializeToString()\n"
        "qnn.open_session(model, find_soc(find_target('qnn-htp'), 'sm8650'))\n"
        "print('{}')"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == {}


def test_a_child_that_crashes_or_hangs_is_an_answer_and_the_next_question_finds_a_new_one(tmp_path: Path) -> None:
    with Child(timeout=20) as child:
        assert "exit code 1" in child.call("no_such_provider", "ask")["error"]
        soc = find_soc(TARGET, "sm8650")
        onnx.save(npu_models.projection(), tmp_path / "m.onnx")
        assert "nodes" in qnn.ask(child, tmp_path / "m.onnx", tmp_path, soc)
    with Child(timeout=0.01) as child:
        assert child.call("qnn", "ask")["error"] == "the provider's compiler gave no answer in 0.01 s"
