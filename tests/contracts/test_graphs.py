"""Two graphs over one data file: one in float16 beside the one in float32, and both compute what is stored."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models
from oracles_decoder import forward
from safetensors.numpy import load_file, save_file
from sessions import genai_tokens, graph_logits, greedy_tokens

from edgepress.bundle.manifest import Manifest, find_problems
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE, GENAI_FILE
from edgepress.exporter.bundle.forms.ort_format import CONFIG_FILE, ORT_FILES
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.decide.report import format_plan, plan_to_json
from edgepress.runtime.config import read_config
from edgepress.schema import read_object
from edgepress.targets import find_target
from edgepress.targets.legality.check import check

FLOAT32, FLOAT16 = "model.onnx", "model_fp16.onnx"
TOKENS = np.random.default_rng(5).integers(3, tiny_models.VOCABULARY, 40)
EXACT = "accuracy_level = 1\n[weights]\nbits = 4\nblock_size = 32\n"  # nothing that goes into a product is rounded


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("graphs")
    (home / "exact.toml").write_text(EXACT, encoding="utf-8")
    tiny_models.save("llama", home / "llama")
    return home


@pytest.fixture(scope="module")
def made(home: Path) -> Manifest:
    """The tiny llama for ARM, in ``home / "out"``."""
    targets = ["arm64-cpu", "android-cpu"]
    return export(home / "llama", out=home / "out", target=targets, recipe="int4", threads=1, check=True)


def named_by_genai(bundle: Path) -> str:
    content = read_object(bundle / GENAI_FILE, "")
    return content["model"]["decoder"]["filename"]  # type: ignore[index]


# Attention, caches and what lies between them are float16: the families whose attention has something of its own.
FAMILIES = sorted({*tiny_models.REPRESENTATIVES, "apertus", "cohere", "falcon", "gemma3_text", "mpt", "olmo2", "phi3"})


@pytest.mark.parametrize("name", FAMILIES)
def test_both_graphs_compute_what_is_stored(home: Path, tmp_path: Path, name: str) -> None:
    checkpoint, asked = tiny_models.save(name, tmp_path / "checkpoint"), home / "exact.toml"
    manifest = export(checkpoint, out=tmp_path / "out", target="arm64-cpu", recipe=asked, threads=1)
    prepared = decide(checkpoint, target="arm64-cpu", recipe=asked)
    if not any(state.in_place for state in prepared.plan.states):  # no attention, and nothing else is in float16
        assert manifest.graphs == ()
        return
    assert [entry.file for entry in manifest.graphs] == [FLOAT16, FLOAT32]
    assert "kept_layers" not in manifest.decisions
    expected = forward(prepared.decoder, StoredWeights(tmp_path / "out" / DATA_FILE, prepared.plan), TOKENS)
    pieces = [TOKENS[:7], *TOKENS[7:12, None], TOKENS[12:]]
    exact, half = (graph_logits(tmp_path / "out", pieces, file) for file in (FLOAT32, FLOAT16))
    assert np.abs(exact - expected).max() < 1e-4 * np.abs(expected).max()
    rows = np.sort(np.abs(half - expected).max(-1))
    if any(weight.kind == "router" for weight in prepared.decoder.weights()):
        rows = rows[: len(rows) // 2]  # near ties of a router may turn, and then other experts compute
    assert 1e-5 < rows[-1] / np.abs(expected).max() < 2e-2  # below the first: not float16


def test_the_manifest_lists_both_and_their_states(home: Path, made: Manifest) -> None:
    assert find_problems(home / "out") == []
    assert [(entry.file, entry.requires) for entry in made.graphs] == [(FLOAT16, ("fp16",)), (FLOAT32, ())]
    half, single = (entry.states for entry in made.graphs)
    assert single == made.states
    assert [(state.name, state.input, state.output, state.shape, state.kind) for state in half] == [
        (state.name, state.input, state.output, state.shape, state.kind) for state in single
    ]
    assert {state.type for state in half} == {"float16"}
    assert {state.type for state in single} == {"float32"}
    assert {str(tensor["form"]) for tensor in made.tensors if tensor["scheme"]} == {"half blocks"}
    for file in (FLOAT16, FLOAT32):
        model = onnx.load(home / "out" / file, load_external_data=False)
        places = {entry.value for tensor in model.graph.initializer for entry in tensor.external_data
                  if entry.key == "location"}  # fmt: skip
        assert places == {DATA_FILE}
        assert read_config(home / "out", graph=file).model == home / "out" / file
    assert made.parity is not None
    assert 0 < float(str(made.parity["graph_difference"])) < 1e-5
    assert 1e-5 < float(str(made.parity["float16_graph_difference"])) < 5e-3


def test_scales_are_cast_when_the_graph_is_opened(home: Path, made: Manifest, tmp_path: Path) -> None:
    assert made.graphs
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "opened.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(home / "out" / FLOAT32, options, providers=["CPUExecutionProvider"])
    opened = onnx.load(tmp_path / "opened.onnx", load_external_data=False).graph
    assert not [node.name for node in opened.node if node.op_type == "Cast" and ".scales" in node.input[0]]


@pytest.mark.parametrize(
    ("target", "recipe"),
    [
        ("x86-cpu", "int4"),
        ("wasm", "int4"),
        ("arm64-cpu", '[weights]\nbits = 4\n[activations]\ntype = "float32"\n'),
        ("arm64-cpu", "fp32"),
        ("arm64-cpu", "int8-dynamic"),
    ],
)
def test_no_other_bundle_has_two(home: Path, tmp_path: Path, target: str, recipe: str) -> None:
    if recipe.startswith("["):
        path = tmp_path / "recipe.toml"
        path.write_text(recipe, encoding="utf-8")
        recipe = str(path)
    manifest = export(home / "llama", out=tmp_path / "out", target=target, recipe=recipe, threads=1)
    assert manifest.graphs == ()
    assert not (tmp_path / "out" / FLOAT16).exists()
    assert "half blocks" not in {tensor["form"] for tensor in manifest.tensors}
    assert '"graphs"' not in (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")
    assert "float16_graph" not in manifest.decisions


def test_an_accelerator_beside_it_reads_float32_scales(home: Path) -> None:
    prepared = decide(home / "llama", target=["arm64-cpu", "qnn-htp"], recipe="int4-channel")
    assert not prepared.recipe.activations.float16_graph


def test_genai_runs_the_one_that_its_config_names(home: Path, made: Manifest, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    assert made.graphs
    assert named_by_genai(home / "out") == FLOAT16
    both = export(home / "llama", out=tmp_path / "out", target=["arm64-cpu", "x86-cpu"], recipe="int4", threads=1)
    assert [entry.file for entry in both.graphs] == [FLOAT16, FLOAT32]
    assert named_by_genai(tmp_path / "out") == FLOAT32  # x86 has no float16 arithmetic
    for bundle, file in ((home / "out", FLOAT16), (tmp_path / "out", FLOAT32)):
        tokens = genai_tokens(bundle, TOKENS[:12], 16)
        assert len(tokens) > 12
        assert tokens == greedy_tokens(bundle, TOKENS[:12], 16, file)[: len(tokens)]


def test_both_are_legal_and_have_the_form_of_the_target(home: Path, made: Manifest) -> None:
    reports = check(home / "out", find_target("arm64-cpu"))
    assert [Path(report.model).name for report in reports] == [FLOAT16, FLOAT32]
    assert all(report.full for report in reports)
    assert [Path(report.model).name for report in check(home / "out", find_target("x86-cpu"))] == [FLOAT32]
    folder = home / "out" / "android-cpu"
    assert made.targets["android-cpu"]["model"] == ORT_FILES[FLOAT32]
    preferred = made.targets["android-cpu"]["preferred"]
    assert preferred == {ORT_FILES[FLOAT16]: (folder / ORT_FILES[FLOAT16]).stat().st_size}
    text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
    assert "MLFloat16" in text
    for file in (FLOAT16, FLOAT32):
        found, expected = (
            graph_logits(home / "out", [TOKENS], name) for name in (f"android-cpu/{ORT_FILES[file]}", file)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_plan_says_what_the_export_writes(home: Path, made: Manifest) -> None:
    prepared = decide(home / "llama", target="arm64-cpu", recipe="int4")
    planned = plan_to_json(prepared)
    assert planned["totals"]["data_file_bytes"] == made.files[DATA_FILE].size  # type: ignore[index]
    half, single = planned["graphs"]  # type: ignore[misc]
    assert (half["file"], single["file"]) == (FLOAT16, FLOAT32)
    assert 2 * half["cache_bytes_at_full_context"] == single["cache_bytes_at_full_context"]
    assert f"{FLOAT16} beside {FLOAT32}" in format_plan(prepared)


def test_attention_that_overflows_is_float32_in_both(home: Path, tmp_path: Path) -> None:
    """Its states too; onnxruntime-genai, which takes caches of one type only, is given the graph in float32."""
    checkpoint = tiny_models.save("llama", tmp_path / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    for part in ("q_proj", "k_proj"):
        tensors[f"model.layers.1.self_attn.{part}.weight"] *= 150
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    manifest = export(checkpoint, out=tmp_path / "out", target="arm64-cpu", recipe=home / "exact.toml", threads=1)
    kept = manifest.decisions["kept_layers"]
    assert isinstance(kept, dict)
    assert kept.keys() == {"layers.1.attention"}
    assert kept["layers.1.attention"].startswith(
        "layers.1.attention: the products of queries and keys, unscaled, reach"
    )
    half, _ = (entry.states for entry in manifest.graphs)
    assert {state.name for state in half if state.type == "float32"} == {"layers.1.key", "layers.1.value"}
    assert named_by_genai(tmp_path / "out") == FLOAT32
    attention = {
        file: next(
            node
            for node in onnx.load(tmp_path / "out" / file, load_external_data=False).graph.node
            if node.name == "layers.1.attention.attended"
        )
        for file in (FLOAT16, FLOAT32)
    }
    assert attention[FLOAT16].input == attention[FLOAT32].input  # no Cast
    assert np.isfinite(graph_logits(tmp_path / "out", [TOKENS], FLOAT16)).all()
