"""Activations in float16: right where the kernels are, in float32 elsewhere and where a layer overflows."""

import importlib
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

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.readback import StoredWeights
from edgepress.exporter.decide.report import format_plan
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


def test_scales_gains_and_biases_are_stored_in_float16(home: Path, tmp_path: Path) -> None:
    asked = recipe(tmp_path, f"[weights]\nbits = 4\nblock_size = 32\n{HALF}")
    plan = decide(home / "llama-biases-head_dim", target="arm64-cpu", recipe=asked).plan
    tensors = {tensor.weight.name: tensor for tensor in plan.tensors}
    up, bias, norm = (tensors[f"layers.1.{part}"] for part in ("mlp.up", "mlp.up.bias", "mlp_norm"))
    assert up.regions["scales"].nbytes == 96 * 2 * 2  # 96 rows of 64 columns
    assert (bias.bytes_after, norm.bytes_after) == (96 * 2, 64 * 2)
    assert tensors["head"].regions["scales"].nbytes == tiny_models.VOCABULARY * 2 * 4
    assert tensors["final_norm"].bytes_after == 64 * 4
    printed = format_plan(decide(home / "llama-biases-head_dim", target="arm64-cpu", recipe=asked))
    assert "float16 scales and activations by [activations]" in printed
    assert "float32 activations outside the layers" in printed


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
    assert (forms["layers.0.mlp.up"], forms["head"]) == ("half blocks", "blocks")


def large_product(tensors: Tensors) -> None:
    """What ``up`` of layer 1 gives becomes 20000 times larger, and ``down`` makes up for it: the same logits."""
    tensors["model.layers.1.mlp.up_proj.weight"] *= 2e4
    tensors["model.layers.1.mlp.down_proj.weight"] /= 2e4


@pytest.mark.parametrize("bits", ["4", "16", "32"])
def test_a_layer_that_overflows_stays_in_float32_and_is_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: str
) -> None:
    checkpoint = changed(tmp_path, large_product)
    asked = recipe(tmp_path, f"{EXACT}[weights]\nbits = {bits}\n{HALF}")
    manifest = export(checkpoint, out=tmp_path / "out", recipe=asked, check=True)
    reasons = {str(tensor["name"]): str(tensor["reason"]) for tensor in manifest.tensors}
    named = {name for name, reason in reasons.items() if "into layers.1.mlp.down reaches" in reason}
    assert named == {name for name in reasons if name.startswith("layers.1.")}
    assert reasons["layers.1.mlp.up"] in format_plan(decide(checkpoint, target="arm64-cpu", recipe=asked))
    forms = {str(tensor["name"]): str(tensor["form"]) for tensor in manifest.tensors}
    assert {form for name, form in forms.items() if name in named} <= {"float", "blocks"}
    logits, reference = graph_logits(tmp_path / "out", [TOKENS]), Reference(home / "llama").logits(TOKENS)
    if bits != "4":
        assert np.abs(logits - reference).max() < 5e-3 * np.abs(reference).max()

    def keep_nothing(*_: object, **__: object) -> dict[str, str]:
        return {}

    monkeypatch.setattr(
        importlib.import_module("edgepress.exporter.decide.prepare"), "layers_that_overflow", keep_nothing
    )
    export(checkpoint, out=tmp_path / "forced", recipe=asked)
    if bits == "4":  # with 16 and 32 the whole MLP is computed in float32, as onnxruntime has no float16 products
        assert not np.isfinite(graph_logits(tmp_path / "forced", [TOKENS])).any()


def test_a_weight_beyond_float16_keeps_its_layer_in_float32(tmp_path: Path) -> None:
    def large_gain(tensors: Tensors) -> None:
        tensors["model.layers.2.input_layernorm.weight"][3] = 1e5

    checkpoint = changed(tmp_path, large_gain)
    plan = decide(checkpoint, target="arm64-cpu", recipe=recipe(tmp_path, f"[weights]\nbits = 16\n{HALF}")).plan
    assert plan.half_layers == (0, 1)
    reasons = [tensor.reason for tensor in plan.tensors if tensor.weight.name.startswith("layers.2.")]
    assert all("layers.2.attention_norm holds 100000, and float16 ends at 65504" in reason for reason in reasons)


def test_transforms_are_refused(home: Path, tmp_path: Path) -> None:
    asked = recipe(tmp_path, f'before = ["awq"]\n[weights]\nbits = 4\n{HALF}')
    with pytest.raises(InputError, match=r"float16.*awq.*leave one of the two out"):
        decide(home / "llama", target="arm64-cpu", recipe=asked)
