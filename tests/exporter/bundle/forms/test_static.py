"""Bundles for an accelerator: static graphs beside the CPU graph, compiled for chips, chosen when they are there."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
from onnx import numpy_helper

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.arrays.packing import unpack
from edgepress.runtime import load
from edgepress.runtime.placement import open_accelerator
from edgepress.targets.providers import qnn

pytest.importorskip("onnxruntime_qnn", reason="needs the wheel onnxruntime-qnn: pip install 'edgepress[qnn]'")

CALIBRATION = "[calibration]\ntokens = 128\nlength = 64\n"
RECIPES = {
    "fp16": "[weights]\nbits = 32\n",
    "a16w8": '[weights]\nbits = 8\nblock_size = "channel"\n[activations]\ntype = "uint16"\nranges = "minmax"\n',
    "a16w4": '[weights]\nmethod = "gptq"\nbits = 4\nblock_size = "channel"\n[embedding]\nmethod = "rtn"\nbits = 8\n',
    "a8w8": '[weights]\nbits = 8\nblock_size = "channel"\n[activations]\ntype = "uint8"\nranges = "mse"\n',
}
CHIPS = {name: ["sm8550", "sm8650"] if name == "fp16" else ["sm8650"] for name in RECIPES}
TARGETS = ["qnn-htp", "android-cpu"]
PROMPT = [5, 9, 3, 7]
SQNR = {"fp16": 40, "a16w8": 25, "a16w4": 20, "a8w8": 10}  # dB against the CPU graph, which keeps more in float32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def bundles(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    made = {}
    for name, text in RECIPES.items():
        recipe = folder / f"{name}.toml"
        recipe.write_text(text + CALIBRATION)
        made[name] = folder / name
        export(model, out=made[name], recipe=recipe, target=TARGETS, socs=CHIPS[name], context_length=96, threads=1)
    return made


@pytest.mark.parametrize("name", RECIPES)
def test_a_bundle_has_graphs_chips_and_the_cpu_graph(bundles: dict[str, Path], name: str) -> None:
    described = read_manifest(bundles[name]).targets
    assert set(described) == {"qnn-htp", "android-cpu"}
    assert described["qnn-htp"]["widths"] == name
    assert list(described["qnn-htp"]["socs"]) == CHIPS[name]  # type: ignore[call-overload]
    assert find_problems(bundles[name]) == []
    assert load(bundles[name], threads=1).prefill(PROMPT).size


@pytest.mark.parametrize("name", RECIPES)
def test_the_simulated_accelerator_computes_what_the_cpu_does(bundles: dict[str, Path], name: str) -> None:
    expected = load(bundles[name], threads=1, on="cpu").prefill(PROMPT).copy()
    for chip in CHIPS[name]:
        found = load(bundles[name], on="qnn-htp", soc=chip).prefill(PROMPT)
        noise = np.square(found - expected).sum() / np.square(expected).sum()
        assert -10 * np.log10(noise) > SQNR[name]


@pytest.mark.parametrize(("name", "bits"), [("a16w8", 8), ("a16w4", 4)])
def test_weights_keep_the_codes_of_the_cpu_graph(bundles: dict[str, Path], name: str, bits: int) -> None:
    folder = bundles[name]
    expected = cpu_codes(folder, "layers.0.mlp.up", bits)
    graph = onnx.load(folder / "qnn-htp" / "decode.onnx").graph
    kinds = {onnx.TensorProto.INT4, onnx.TensorProto.INT8}
    integers = [numpy_helper.to_array(t) for t in graph.initializer if t.data_type in kinds]
    assert any(codes.shape == expected.T.shape and (codes.astype(np.int8) == expected.T).all() for codes in integers), [
        codes.shape for codes in integers
    ]


def cpu_codes(folder: Path, tensor: str, bits: int) -> np.ndarray:
    """Codes (rows, columns) of a weight as the bundle's data file has them, the middle taken off."""
    entry = next(t for t in read_manifest(folder).tensors if t["name"] == tensor)
    rows, columns = entry["shape"]  # type: ignore[misc]
    offset, size = entry["regions"]["values"]  # type: ignore[index,call-overload]
    stored = np.fromfile(folder / "model.onnx.data", np.uint8, size, offset=offset)
    if entry["form"] == "uint16":  # (columns, rows)
        return stored.reshape(columns, rows).T.astype(np.int16) - 128
    codes = unpack(stored.reshape(rows, -1), bits)[:, :columns]
    return np.asarray(codes.astype(np.int16) - (1 << (bits - 1)))


def test_the_same_export_gives_the_same_bytes(model: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    recipe = bundles["a16w8"].with_suffix(".toml")
    chips = CHIPS["a16w8"]
    again = export(model, out=tmp_path / "b", recipe=recipe, target=TARGETS, socs=chips, context_length=96, threads=1)
    assert again == read_manifest(bundles["a16w8"])


def test_without_an_accelerator_the_cpu_runs_it(bundles: dict[str, Path]) -> None:
    assert qnn.simulated()
    assert open_accelerator(bundles["fp16"]) is None
    assert open_accelerator(bundles["fp16"], "cpu") is None


def test_an_accelerator_is_taken_when_there_is_one(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    chip = next(soc for soc in qnn_socs() if soc.name == "sm8650")
    opened = []
    plain = qnn.open_session
    monkeypatch.setattr(qnn, "simulated", lambda: False)
    monkeypatch.setattr(qnn, "host_soc", lambda _socs: chip)
    monkeypatch.setattr(
        qnn, "open_session", lambda path, *rest, **more: opened.append(path) or plain(path, *rest, **more)
    )
    assert open_accelerator(bundles["fp16"]) is not None
    assert {path.parent for path in opened} == {bundles["fp16"] / "qnn-htp" / "sm8650"}


def test_the_cpu_steps_in_with_a_warning(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InputError("the driver is older than the binary")

    monkeypatch.setattr(qnn, "simulated", lambda: False)
    monkeypatch.setattr(qnn, "host_soc", lambda _socs: None)
    monkeypatch.setattr(qnn, "open_session", refuse)
    with caplog.at_level(logging.WARNING, "edgepress.runtime"):
        assert load(bundles["fp16"], threads=1).prefill(PROMPT).size
    assert "the CPU runs this bundle, because qnn-htp does not: the driver is older" in caplog.text


def test_the_host_is_known_by_its_name_in_sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = tmp_path / "machine"
    monkeypatch.setattr(qnn, "_MACHINE", machine)
    assert qnn.host_soc(qnn_socs()) is None
    machine.write_text("SM8650\n")
    found = qnn.host_soc(qnn_socs())
    assert found is not None
    assert found.name == "sm8650"
    machine.write_text("Tensor G4\n")
    assert qnn.host_soc(qnn_socs()) is None


def qnn_socs() -> tuple:
    from edgepress.targets import find_target

    return find_target("qnn-htp").socs


def test_what_is_not_in_the_bundle_is_refused_with_what_is(bundles: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="has no graphs for 'openvino-npu', it has those for qnn-htp, cpu"):
        load(bundles["fp16"], on="openvino-npu")
    with pytest.raises(InputError, match="qnn-htp knows no chip 'sm1'; the bundle is compiled for sm8550, sm8650"):
        load(bundles["fp16"], on="qnn-htp", soc="sm1")
    with pytest.raises(InputError, match="a chip, sm8650, is named, but the CPU runs the bundle"):
        load(bundles["fp16"], on="cpu", soc="sm8650")
    with pytest.raises(InputError, match="a chip, sm8650, is named, but no target; name one of qnn-htp"):
        load(bundles["fp16"], soc="sm8650")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[weights]\nbits = 4\nblock_size = 32\n", "one scale a row .* with block 32. Recipes that fit: int8-static"),
        ('[weights]\nbits = 8\nblock_size = "channel"\nsymmetric = false\n', "with zero points"),
        ('[weights]\nbits = 2\nblock_size = "channel"\n', "with 2 bits"),
        ("[weights]\nbits = 32\n", "sm8350 cannot compute in float16"),
    ],
)
def test_what_no_chip_takes_is_refused_before_a_weight_is_read(
    model: Path, tmp_path: Path, text: str, message: str
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    with pytest.raises(InputError, match=message):
        decide(model, target="qnn-htp", recipe=recipe, socs=["sm8350"])
