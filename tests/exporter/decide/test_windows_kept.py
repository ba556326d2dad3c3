"""When caches keep a window alone, what is said of it, and who else runs such a bundle."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
from sessions import genai_tokens, graph_logits, greedy_tokens

from edgepress.bundle.manifest import read_manifest
from edgepress.bundle.states import State, state_bytes
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.written.inspection import format_inspection, inspect
from edgepress.exporter.decide.report import format_plan, plan_to_json
from edgepress.runtime import load

WINDOW = 16  # tests/families/gemma3_text.py: the last layer sees all of the text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def long(home: Path) -> Path:
    """A checkpoint with windows that are short against its context."""
    variant = tiny_models.VARIANTS["gemma3_text"]
    longer = replace(variant, config={**variant.config, "max_position_embeddings": 2048})
    return tiny_models.save_variant(longer, home / "long", seed=1)


def recipe(folder: Path, windows: str) -> Path:
    path = folder / f"windows-{windows}.toml"
    path.write_text(f"weights.bits = 32\ncache.windows = {windows}\n")
    return path


def kinds(states: tuple[State, ...]) -> list[str]:
    return [state.kind for state in states]


def test_they_do_where_that_halves_the_states_of_a_text(home: Path, long: Path) -> None:
    prepared = decide(long, target="x86-cpu", recipe="fp32")
    assert kinds(prepared.plan.states) == ["window"] * 4 + ["key-value"] * 2
    assert prepared.decisions.to_json() == {"windows": True}
    told = plan_to_json(prepared)["windows"]
    entry = prepared.plan.states[0].bytes_at(1)
    rows = 16 + 16 + 17  # the window, what it may hold beyond it, and what it pushed out last
    small, whole = (2 * tokens * entry for tokens in (2 * rows + 2048, 3 * 2048))
    assert told == {
        "kept": True,
        "tokens": [WINDOW],
        "states": 4,
        "of_states": 6,
        "cache_bytes_with_windows": small,
        "cache_bytes_whole": whole,
        "at_tokens": 2048,
    }
    assert prepared.plan.cache_bytes == small
    assert "windows      4 of 6 states are of attention to 16 tokens and keep these: " in format_plan(prepared)

    short = decide(tiny_models.save("gemma3_text", home / "short"), target="x86-cpu", recipe="fp32")
    assert set(kinds(short.plan.states)) == {"key-value"}  # 2 · 49 + 128 entries are more than half of 3 · 128
    assert "windows" not in short.decisions.to_json()
    assert "keep all: " in format_plan(short)
    assert "with [cache] windows = true" in format_plan(short)


def test_a_recipe_may_say_it(home: Path, long: Path) -> None:
    whole = decide(long, target="x86-cpu", recipe=recipe(home, "false"))
    assert set(kinds(whole.plan.states)) == {"key-value"}
    short = decide(tiny_models.save("gemma3_text", home / "short"), target="x86-cpu", recipe=recipe(home, "true"))
    assert kinds(short.plan.states) == ["window"] * 4 + ["key-value"] * 2


def test_a_default_text_is_no_shorter_than_a_window_that_is_kept(home: Path) -> None:
    variant = tiny_models.VARIANTS["gemma3_text"]
    wide = replace(variant, config={**variant.config, "max_position_embeddings": 65536, "sliding_window": 5000})
    checkpoint = tiny_models.save_variant(wide, home / "wide", seed=1)
    asked = recipe(home, "true")
    assert decide(checkpoint, target="x86-cpu", recipe="fp32").plan.default_context == 4096
    assert decide(checkpoint, target="x86-cpu", recipe=asked).plan.default_context == 5000


def test_static_graphs_have_whole_caches(home: Path, long: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = decide(long, target="qnn-htp", recipe="fp32", socs=())
    assert set(kinds(prepared.plan.states)) == {"key-value"}
    assert "keep all, as static graphs do: " in format_plan(prepared)
    asked = recipe(home, "true")
    with pytest.raises(InputError, match=r"\[cache\] windows = true, and the static graphs of qnn-htp take a cache of"):
        decide(long, target="qnn-htp", recipe=asked)
    out = home / "static"
    arguments = [str(long), "--target", "qnn-htp", "--recipe", str(asked), "--out", str(out)]
    assert main(["export", *arguments]) == 2
    assert "the static graphs of qnn-htp" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("name", ["qwen3", "mistral-full"])
def test_a_model_without_windows_is_said_to_have_none(home: Path, name: str) -> None:
    checkpoint = tiny_models.save(name, home / name)
    with pytest.raises(InputError, match="no layer of this model has a window below its context of 128 tokens"):
        decide(checkpoint, target="x86-cpu", recipe=recipe(home, "true"))
    plain = decide(checkpoint, target="x86-cpu", recipe="fp32")
    assert plan_to_json(plain)["windows"] is None
    assert "windows  " not in format_plan(plain)


def test_layers_that_others_read_keep_all(home: Path) -> None:
    """Gemma 4's last layers attend to the keys of earlier ones, at every position of a call."""
    found = decide(tiny_models.save("gemma4_text", home / "g4"), target="x86-cpu", recipe=recipe(home, "true"))
    graph_kinds = {state.name: state.kind for state in found.plan.states}
    sharing = {f"layers.{block.mixer.keys_of}.key" for layer in found.decoder.layers for block in layer.blocks
               if block.mixer.kind == "shared_attention"}  # fmt: skip
    assert sharing
    assert {graph_kinds[name] for name in sharing} == {"key-value"}
    assert "window" in graph_kinds.values()


@pytest.fixture(scope="module")
def bundle(home: Path, long: Path) -> Path:
    """With a graph in float16, and one in float32."""
    export(long, target="arm64-cpu", recipe="int8", out=home / "out", check=True)
    return home / "out"


def test_both_graphs_keep_windows_of_their_own_type(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert [kinds(entry.states) for entry in manifest.graphs] == [kinds(manifest.states)] * 2
    half, single = (entry.states for entry in manifest.graphs)
    assert 2 * state_bytes(half, 1000) == state_bytes(single, 1000)
    listed = json.loads((bundle / "manifest.json").read_text())["states"]
    assert [state.get("window") for state in listed] == [16, 16, 16, 16, None, None]
    assert ["window" in state for state in listed] == [True] * 4 + [False] * 2
    told = inspect(bundle)["bundle"]["graphs"]
    assert [graph["window_bytes"] for graph in told] == [
        size * 49 * 4 * single[0].shape[1] * single[0].shape[3] for size in (2, 4)
    ]
    assert "bytes of windows" in format_inspection(inspect(bundle))


def test_the_graph_in_float16_is_near_the_one_in_float32(bundle: Path) -> None:
    """It runs here too, slowly: after four windows of text, and after some was taken back."""
    tokens = np.random.default_rng(0).integers(3, 200, 70)
    found = []
    for graph in ("model_fp16.onnx", "model.onnx"):
        session = load(bundle, graph=graph, prepared=False).session
        for piece in (tokens[:60], *tokens[60:, None]):
            session.append(piece)
        session.roll_back(60)
        found.append(session.append(tokens[60:], 0).copy())
    assert np.abs(found[0] - found[1]).max() < 2e-2 * np.abs(found[1]).max()
    attributes = [
        {one.name: one.i for one in node.attribute}.get("sliding_window_cache")
        for node in onnx.load(bundle / "model_fp16.onnx", load_external_data=False).graph.node
        if node.op_type == "GroupQueryAttention"
    ]
    assert attributes == [1, 1, None]


def test_plain_onnxruntime_runs_it_with_memory_of_another_size(bundle: Path) -> None:
    tokens = np.random.default_rng(0).integers(3, 200, 70)
    session = load(bundle, graph="model.onnx", prepared=False).session
    pieces = [tokens[:33], *tokens[33:, None]]
    near = session.append(tokens, 0)
    assert np.abs(graph_logits(bundle, pieces) - near).max() < 2e-2 * np.abs(near).max()


@pytest.mark.parametrize("length", [3, 60])
def test_genai_runs_it(home: Path, long: Path, length: int) -> None:
    pytest.importorskip("onnxruntime_genai")
    out = home / "genai"
    if not out.exists():
        export(long, target="x86-cpu", recipe="fp32", out=out)
    config = json.loads((out / "genai_config.json").read_text())["model"]["decoder"]["sliding_window"]
    assert (config["window_size"], config["layers"]) == (WINDOW, [0, 1])
    prompt = np.random.default_rng(0).integers(3, 200, length)
    assert genai_tokens(out, prompt, 40) == greedy_tokens(out, prompt, 40)


def test_genai_refuses_a_text_that_is_shorter_than_the_window(home: Path, long: Path) -> None:
    """A limit that docs/limits.md has; when it ends, so does the limit."""
    pytest.importorskip("onnxruntime_genai")
    out = home / "genai"
    if not out.exists():
        export(long, target="x86-cpu", recipe="fp32", out=out)
    with pytest.raises(RuntimeError, match="must be at least local_window_size"):
        genai_tokens(out, np.array([3, 4, 5]), 4)
