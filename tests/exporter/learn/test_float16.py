"""Activations in float16: right where the kernels are, in float32 elsewhere and where a layer overflows."""

import importlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models
from oracles_decoder import forward
from safetensors.numpy import load_file, save_file
from sessions import genai_tokens, graph_logits, greedy_tokens

from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.model.reference import Reference
from edgepress.runtime import evaluate

# The head in float32, and float32 products of what is rounded: what differs is float16.
EXACT = "accuracy_level = 1\n[embedding]\nbits = 32\n"
HALF = '[activations]\ntype = "float16"\n'
FAMILIES = ["llama", "llama-biases-head_dim", "qwen3", "gemma3_text", "gpt2", "olmo2", "granite"]
TOKENS = np.random.default_rng(5).integers(3, tiny_models.VOCABULARY, 40)

Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("float16")
    for name in FAMILIES:
        tiny_models.save(name, home / name)
    return home


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(tmp_path: Path, change: Callable[[Tensors], None]) -> Path:
    """The tiny llama with other weights."""
    checkpoint = tiny_models.save("llama", tmp_path / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    return checkpoint


@pytest.mark.parametrize("bits", ["4\nblock_size = 32", "8\nblock_size = 128\nsymmetric = false", "16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_the_oracle_in_float64(home: Path, tmp_path: Path, name: str, bits: str) -> None:
    asked = recipe(tmp_path, f"{EXACT}[weights]\nbits = {bits}\n{HALF}")
    manifest = export(home / name, out=tmp_path / "out", recipe=asked)
    assert "kept_layers" not in manifest.decisions
    prepared = decide(home / name, target="arm64-cpu", recipe=asked)
    assert prepared.plan.half_layers == (0, 1, 2)
    expected = forward(prepared.decoder, StoredWeights(tmp_path / "out" / DATA_FILE, prepared.plan), TOKENS)
    for pieces in ([TOKENS], [TOKENS[:7], *TOKENS[7:12, None], TOKENS[12:]]):
        difference = np.abs(graph_logits(tmp_path / "out", pieces) - expected).max() / np.abs(expected).max()
        assert 1e-5 < difference < 2e-2  # below the first it would not be float16


@pytest.mark.parametrize("bits", ["4", "16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_cast_is_left_to_onnxruntime_and_none_undoes_another(
    home: Path, tmp_path: Path, name: str, bits: str
) -> None:
    export(home / name, out=tmp_path / "out", recipe=recipe(tmp_path, f"[weights]\nbits = {bits}\n{HALF}"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", options, providers=["CPUExecutionProvider"])
    written, run = (
        onnx.load_model(path, load_external_data=False).graph.node
        for path in (tmp_path / "out" / "model.onnx", tmp_path / "run.onnx")
    )
    assert Counter(node.op_type for node in run) == Counter(node.op_type for node in written)
    casts = {node.output[0]: node.input[0] for node in written if node.op_type == "Cast"}
    assert not set(casts.values()) & set(casts)
    assert len(set(zip(casts.values(), (name.rpartition(".")[2] for name in casts), strict=True))) == len(casts)


def test_scales_are_stored_in_float16_and_states_are_of_that_type(home: Path, tmp_path: Path) -> None:
    asked = recipe(tmp_path, f"[weights]\nbits = 4\nblock_size = 32\n{HALF}")
    plan = decide(home / "llama-biases-head_dim", target="arm64-cpu", recipe=asked).plan
    assert {state.type for state in plan.states} == {"float16"}
    tensors = {tensor.weight.name: tensor for tensor in plan.tensors}
    up, bias, norm = (tensors[f"layers.1.{part}"] for part in ("mlp.up", "mlp.up.bias", "mlp_norm"))
    assert up.regions["scales"].nbytes == 96 * 2 * 2  # 96 rows of 64 columns
    assert (bias.bytes_after, norm.bytes_after) == (96 * 4, 64 * 4)
    assert tensors["head"].regions["scales"].nbytes == tiny_models.VOCABULARY * 2 * 2
    assert tensors["final_norm"].bytes_after == 64 * 4
    assert {tensor.form for tensor in tensors.values() if tensor.scheme is not None} == {"half blocks"}


@pytest.mark.parametrize("bits", ["4", "8", "16"])
def test_the_runtime_and_genai_run_it(home: Path, tmp_path: Path, bits: str) -> None:
    pytest.importorskip("onnxruntime_genai")
    out = tmp_path / "out"
    manifest = export(home / "llama", out=out, check=True, recipe=recipe(tmp_path, f"[weights]\nbits = {bits}\n{HALF}"))
    assert manifest.parity is not None
    assert float(str(manifest.parity["graph_difference"])) < 5e-3
    reference = Reference(home / "llama")
    found = [
        evaluate(out, [tiny_models.TEXT], context=64, stride=32, reference=reference, prepared=prepared).kl
        for prepared in (False, True)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert found[0] is not None
    assert found[0] < {"4": 0.5, "8": 0.01, "16": 1e-4}[bits]
    tokens = genai_tokens(out, TOKENS[:12], 16)
    assert len(tokens) > 12
    assert tokens == greedy_tokens(out, TOKENS[:12], 16)[: len(tokens)]


def test_calibrated_weights_are_stored_with_float16_scales_too(home: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(tiny_models.TEXT * 40, encoding="utf-8")
    settings = "[calibration]\nlength = 64\ntokens = 1024\n"
    asked = recipe(tmp_path, f'[weights]\nmethod = "gptq"\nbits = 4\n[embedding]\nmethod = "rtn"\n{HALF}{settings}')
    manifest = export(home / "llama", out=tmp_path / "out", recipe=asked, calibration=[text], check=True)
    forms = {str(tensor["name"]): tensor["form"] for tensor in manifest.tensors}
    assert (forms["layers.0.mlp.up"], forms["head"]) == ("half blocks", "half blocks")


def large_product(factor: float, divisor: float) -> Callable[[Tensors], None]:
    """``up`` of layer 1 gives ``factor`` times more, and ``down`` ``divisor`` times less of it."""

    def change(tensors: Tensors) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"] *= factor
        tensors["model.layers.1.mlp.down_proj.weight"] /= divisor

    return change


def keep_nothing(*_: object, **__: object) -> dict[str, str]:
    return {}


def test_a_layer_that_overflows_stays_in_float32_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = changed(tmp_path, large_product(2e5, 50))
    asked = recipe(tmp_path, f"{EXACT}[weights]\nbits = 4\n{HALF}")
    kept = export(checkpoint, out=tmp_path / "out", recipe=asked, check=True).decisions["kept_layers"]
    assert isinstance(kept, dict)
    assert "layers.1" in kept
    assert re.match(r"layers\.1\.mlp\.\S+ reaches .* tokens of built-in prose, above 16376", kept["layers.1"])
    assert np.isfinite(graph_logits(tmp_path / "out", [TOKENS])).all()
    monkeypatch.setattr(importlib.import_module("edgepress.exporter.export"), "find_overflow", keep_nothing)
    export(checkpoint, out=tmp_path / "forced", recipe=asked)
    assert not np.isfinite(graph_logits(tmp_path / "forced", [TOKENS])).any()


@pytest.mark.parametrize("bits", ["16", "32"])
def test_what_is_computed_in_float32_anyway_may_be_large(home: Path, tmp_path: Path, bits: str) -> None:
    """onnxruntime has no float16 products of such weights, so that the whole MLP is computed in float32."""
    asked = recipe(tmp_path, f"{EXACT}[weights]\nbits = {bits}\n{HALF}")
    checkpoint = changed(tmp_path, large_product(5e2, 5e2))
    assert "kept_layers" not in export(checkpoint, out=tmp_path / "out", recipe=asked, check=True).decisions
    logits, reference = graph_logits(tmp_path / "out", [TOKENS]), Reference(home / "llama").logits(TOKENS)
    assert np.abs(logits - reference).max() < 1e-2 * np.abs(reference).max()


@pytest.mark.parametrize(("factor", "divisor", "lost"), [(2e4, 2e4, "layers.1.mlp.down"), (1e9, 1, "layers.1.mlp.up")])
def test_scales_that_float16_cannot_hold_stay_float32_and_their_layer_too(
    tmp_path: Path, factor: float, divisor: float, lost: str
) -> None:
    checkpoint = changed(tmp_path, large_product(factor, divisor))
    asked = recipe(tmp_path, f"{EXACT}[weights]\nbits = 8\nblock_size = 32\n{HALF}")
    manifest = export(checkpoint, out=tmp_path / "out", recipe=asked, check=True)
    tensors = {str(tensor["name"]): tensor for tensor in manifest.tensors}
    assert {name for name, tensor in tensors.items() if tensor["form"] == "blocks"} == {lost}
    assert re.search(r"float32 scales: its scales (change by|are beyond)", str(tensors[lost]["reason"]))
    kept, scales = manifest.decisions["kept_layers"], manifest.decisions["float32_scales"]
    assert isinstance(kept, dict)
    assert isinstance(scales, dict)
    assert scales.keys() == {lost}
    assert "layers.1" in kept
    prepared = decide(checkpoint, target="arm64-cpu", recipe=asked).with_float32_scales(scales)
    stored = StoredWeights(tmp_path / "out" / DATA_FILE, prepared.plan)
    expected = forward(prepared.decoder, stored, TOKENS)
    assert np.abs(graph_logits(tmp_path / "out", [TOKENS]) - expected).max() < 2e-2 * np.abs(expected).max()
    for source, original in load_file(checkpoint / "model.safetensors").items():  # no tensor is lost
        if ".layers.1.mlp." in source:
            noise = np.linalg.norm(stored(source) - original) / np.linalg.norm(original)
            assert noise < 0.01


def test_a_weight_beyond_float16_keeps_its_layer_in_float32(tmp_path: Path) -> None:
    def large_gain(tensors: Tensors) -> None:
        tensors["model.layers.2.input_layernorm.weight"][3] = 1e5

    checkpoint = changed(tmp_path, large_gain)
    asked = recipe(tmp_path, f"[weights]\nbits = 16\n{HALF}")
    kept = export(checkpoint, out=tmp_path / "out", recipe=asked).decisions["kept_layers"]
    assert isinstance(kept, dict)
    assert kept["layers.2"] == "layers.2.attention_norm holds 100000, and float16 ends at 65504"
    assert not {"layers.0", "layers.1"} & set(kept)


def test_what_transforms_make_is_what_is_run(home: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(tiny_models.TEXT * 40, encoding="utf-8")
    asked = recipe(
        tmp_path, f'before = ["hadamard"]\n[weights]\nbits = 8\n{HALF}[calibration]\nlength = 64\ntokens = 512\n'
    )
    manifest = export(home / "llama", out=tmp_path / "out", recipe=asked, calibration=[text], check=True)
    assert manifest.parity is not None
    assert float(str(manifest.parity["graph_difference"])) < 5e-3
