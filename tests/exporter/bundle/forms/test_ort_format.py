"""model.ort: what a minimal build of onnxruntime reads, made from the bundle's own graph."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny_models
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

from edgepress.bundle.manifest import find_problems
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.forms.ort_format import CONFIG_FILE, ORT_FILES, refuse
from edgepress.exporter.graph.ort_flatbuffer import sort_kernel_types

ORT_FILE = ORT_FILES["model.onnx"]
FEEDS = {"input_ids": np.array([[5, 9, 3]]), "attention_mask": np.ones((1, 3), np.int64)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("llama", tmp_path_factory.mktemp("models") / "llama")


def logits(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    past = {
        value.name: np.zeros([1, value.shape[1], 0, value.shape[3]], np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past_key_values")
    }
    return np.asarray(session.run(["logits"], FEEDS | past)[0])


@pytest.mark.parametrize("recipe", ["fp32", "int4-128", "int8-dynamic"])
def test_it_computes_what_the_bundle_does(model: Path, tmp_path: Path, recipe: str) -> None:
    export(model, out=tmp_path / "out", target=["android-cpu"], recipe=recipe)
    found = logits(tmp_path / "out" / "android-cpu" / ORT_FILE)
    np.testing.assert_allclose(found, logits(tmp_path / "out" / "model.onnx"), rtol=1e-5, atol=1e-5)


def test_operators_of_the_graph_are_required_and_their_types_said(model: Path, tmp_path: Path) -> None:
    export(model, out=tmp_path / "out", target="android-cpu", recipe="int4-128")
    text = (tmp_path / "out" / "android-cpu" / CONFIG_FILE).read_text(encoding="utf-8")
    kernels = {line.split(";")[0]: line.split(";", 2)[2] for line in text.splitlines() if not line.startswith("#")}
    for operator in ("MatMulNBits", "GroupQueryAttention", "GatherBlockQuantized"):
        assert operator in kernels["com.microsoft"]
    assert '{"inputs": {"0": ["int64_t"]}' in text


def test_several_targets_share_one_export_and_its_bytes_do_not_depend_on_where(model: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first = export(model, out=tmp_path / "a", target=["arm64-cpu", "android-cpu"], recipe="int4-128")
    second = export(model, out=tmp_path / "elsewhere" / "b", target=["arm64-cpu", "android-cpu"], recipe="int4-128")
    assert first == second
    assert set(first.targets) == {"arm64-cpu", "android-cpu"}
    assert first.targets["android-cpu"]["model"] == ORT_FILE
    assert f"android-cpu/{ORT_FILE}" in first.files
    assert find_problems(tmp_path / "a") == []


def test_sorting_keeps_everything_that_the_file_says(model: Path, tmp_path: Path) -> None:
    export(model, out=tmp_path / "out", recipe="int8-dynamic")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "written.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", options, providers=["CPUExecutionProvider"])
    written = tmp_path / "written.ort"
    expected = logits(written)
    before = InferenceSession.GetRootAs(written.read_bytes(), 0)
    sort_kernel_types(written)
    after = InferenceSession.GetRootAs(written.read_bytes(), 0)
    np.testing.assert_array_equal(logits(written), expected)
    assert after.OrtVersion() == before.OrtVersion()
    assert InferenceSession.InferenceSessionBufferHasIdentifier(written.read_bytes(), 0)
    assert kernel_types(after) == dict(sorted(kernel_types(before).items()))
    assert list(kernel_types(after)) == sorted(kernel_types(before))


def kernel_types(session: InferenceSession) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """What the file says of each operator: its type strings, and which inputs or outputs have them."""
    resolver = session.KernelTypeStrResolver()
    operators = [resolver.OpKernelTypeStrArgs(i) for i in range(resolver.OpKernelTypeStrArgsLength())]
    return {
        operator.OpId().decode(): {
            entry.KernelTypeStr().decode(): [
                (entry.Args(k).ArgType(), entry.Args(k).Index()) for k in range(entry.ArgsLength())
            ]
            for entry in (operator.KernelTypeStrArgs(j) for j in range(operator.KernelTypeStrArgsLength()))
        }
        for operator in operators
    }


def test_weights_beyond_a_flatbuffer_are_refused_before_they_are_read(model: Path) -> None:
    prepared = decide(model, target="android-cpu", recipe="fp32")
    refuse(prepared, prepared.targets[0], ())
    large = replace(prepared, plan=replace(prepared.plan, data_bytes=2**31))
    with pytest.raises(InputError, match=r"android-cpu: the weights take 2\.15 GB and ORT format holds 2\.15 GB"):
        refuse(large, large.targets[0], ())


def test_a_chip_of_no_target_and_no_target_at_all_are_refused(model: Path) -> None:
    with pytest.raises(InputError, match="android-cpu has no chips to choose from; leave 'sm8650' out"):
        decide(model, target=["android-cpu"], recipe="fp32", socs=["sm8650"])
    with pytest.raises(InputError, match="name at least one target: android-cpu"):
        decide(model, target=[], recipe="fp32")
