"""A bundle with two graphs runs the one that suits the processor, says which, and runs either when asked."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from two_graphs import FLOAT16_FILE, FLOAT32_FILE, make_two_graphs, seal

from edgepress import cli
from edgepress.bundle import graphs
from edgepress.bundle.graphs import GraphEntry
from edgepress.bundle.manifest import read_manifest
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.bundle.written.inspection import format_inspection, inspect
from edgepress.runtime import bench, config, evaluate, format_measurement, load
from edgepress.runtime.config import read_config
from edgepress.runtime.sessions import open_graph

TOKENS = list(range(3, 43))
Has = Callable[[Sequence[str]], None]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    checkpoint = tiny_models.save("llama", folder / "llama")
    export(checkpoint, out=folder / "bundle", recipe="int4", target="x86-cpu", threads=1)
    return make_two_graphs(folder / "bundle")


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Has:
    """Gives the processor some features and no others."""
    config._warn.cache_clear()
    return lambda words: monkeypatch.setattr(graphs, "features", lambda: frozenset(words))


CASES = [((), FLOAT32_FILE, "float32"), (("fp16",), FLOAT16_FILE, "float16")]


@pytest.mark.parametrize(("words", "file", "kind"), CASES)
@pytest.mark.parametrize("prepared", [True, False])
def test_the_processor_decides(
    bundle: Path, has: Has, words: tuple[str, ...], file: str, kind: str, prepared: bool
) -> None:
    has(words)
    model = load(bundle, threads=1, prepared=prepared)
    assert model.session.ran_on.graph == model.config.graph == file
    assert (model.session.prepared.directory is not None) is prepared, model.session.prepared.reason
    assert {state.type for state in model.session.states} == {kind}
    logits = model.prefill(TOKENS).copy()
    assert logits.dtype == np.float32
    asked = load(bundle, threads=1, graph=file)
    np.testing.assert_array_equal(asked.prefill(TOKENS), logits)


def test_both_compute_the_model(bundle: Path) -> None:
    """What is rounded is activations: at 4 bits with their own 8, whose steps may fall the other way."""
    single, half = (load(bundle, threads=1, graph=file).prefill(TOKENS).copy() for file in (FLOAT32_FILE, FLOAT16_FILE))
    difference = np.linalg.norm(half - single) / np.linalg.norm(single)
    assert 0 < difference < 0.05
    scored = [
        evaluate(bundle, [tiny_models.TEXT], context=64, stride=32, threads=1, graph=file).bits_per_byte
        for file in (FLOAT32_FILE, FLOAT16_FILE)
    ]
    assert scored[0] != scored[1] == pytest.approx(scored[0], rel=0.01)


@pytest.mark.parametrize(("words", "file", "kind"), CASES)
def test_bench_says_what_ran_and_what_its_cache_takes(
    bundle: Path, has: Has, words: tuple[str, ...], file: str, kind: str
) -> None:
    has(words)
    few = {"prompt_lengths": [8], "decode_tokens": 4, "repetitions": 1, "warmup": 0, "threads": 1, "prepared": False}
    found = bench(bundle, **few)  # type: ignore[arg-type]
    assert found.to_json()["ran_on"]["graph"] == file
    assert f"ran on         cpu, {file} (CPUExecutionProvider)\n" in format_measurement(found)
    states = 3 * 2 * 2 * 16 * (8 + 4)  # layers, keys and values, heads, their width, tokens
    assert found.cache_bytes == states * {"float32": 4, "float16": 2}[kind]


def test_what_is_asked_for_runs_and_is_warned_of_once(bundle: Path, has: Has, caplog: pytest.LogCaptureFixture) -> None:
    has(())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert read_config(bundle, FLOAT16_FILE).graph == FLOAT16_FILE
        read_config(bundle)
    assert [record.message for record in caplog.records] == [
        "model_fp16.onnx runs because it was asked for: this processor has no float16 arithmetic"
    ]


def test_float16_is_refused_where_it_would_end_the_process(
    bundle: Path, has: Has, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On arm64 without float16; test_emulator.py has such a processor."""
    has(())
    monkeypatch.setattr(open_graph, "dies_of_float16", lambda: True)
    assert load(bundle, threads=1, prepared=False).config.graph == FLOAT32_FILE
    with pytest.raises(InputError, match=r"model_fp16.onnx computes in float16, and this processor has no instruct"):
        load(bundle, threads=1, prepared=False, graph=FLOAT16_FILE)


def test_what_casts_is_not_refused_there_and_not_preferred(
    bundle: Path, tmp_path: Path, has: Has, monkeypatch: pytest.MonkeyPatch
) -> None:
    casting = shutil.copytree(bundle, tmp_path / "casting")
    first, last = read_manifest(casting).graphs
    seal(casting, graphs=(replace(first, casts=True), last))
    has(())
    monkeypatch.setattr(open_graph, "dies_of_float16", lambda: True)
    assert load(casting, threads=1, prepared=False).config.graph == FLOAT32_FILE
    assert load(casting, threads=1, prepared=False, graph=FLOAT16_FILE).prefill(TOKENS).size


def test_a_word_of_a_newer_edgepress_is_said_and_its_graph_passed_over(
    bundle: Path, tmp_path: Path, has: Has, caplog: pytest.LogCaptureFixture
) -> None:
    newer = shutil.copytree(bundle, tmp_path / "newer")
    shutil.copy(newer / FLOAT16_FILE, newer / "model_sme2.onnx")
    first, last = read_manifest(newer).graphs
    seal(newer, graphs=(GraphEntry("model_sme2.onnx", ("sme2",), first.states), first, last))
    has(("fp16",))
    with caplog.at_level(logging.WARNING):
        assert load(newer, threads=1, prepared=False).session.ran_on.graph == FLOAT16_FILE
    assert [record.message for record in caplog.records] == [
        "model_sme2.onnx does not run: this edgepress knows no sme2"
    ]


def test_a_graph_that_is_not_there_and_one_that_no_accelerator_has(bundle: Path) -> None:
    with pytest.raises(InputError, match=r"no graph 'model_int8.onnx'; it has model_fp16.onnx, model.onnx"):
        load(bundle, graph="model_int8.onnx")
    with pytest.raises(InputError, match=r"model.onnx is a graph that the CPU runs, and qnn-htp has graphs of its own"):
        load(bundle, graph="model.onnx", on="qnn-htp")


def test_a_bundle_with_one_graph_takes_its_name_and_no_other(bundle: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(bundle, tmp_path / "plain")
    seal(plain, graphs=())
    model = load(plain, threads=1, prepared=False, graph="model.onnx")
    assert (model.config.graph, model.session.ran_on.graph) == (None, None)
    with pytest.raises(InputError, match=r"no graph 'model_fp16.onnx'; it has model.onnx"):
        load(plain, graph=FLOAT16_FILE)


def test_genai_must_be_told_of_one_of_them(bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "other")
    path = other / "genai_config.json"
    path.write_text(path.read_text().replace("model.onnx", "model_fp16.onnx"))
    seal(other)
    assert load(other, threads=1, prepared=False, graph=FLOAT32_FILE).config.model.name == FLOAT32_FILE
    path.write_text(path.read_text().replace("model_fp16.onnx", "another.onnx"))
    seal(other)
    with pytest.raises(InputError, match=r"names the graph 'another.onnx', and manifest.json lists model_fp16.onnx, m"):
        load(other)


def test_states_that_a_graph_does_not_have_are_found(bundle: Path, tmp_path: Path, has: Has) -> None:
    lying = shutil.copytree(bundle, tmp_path / "lying")
    first, last = read_manifest(lying).graphs
    seal(lying, graphs=(replace(first, states=last.states), last))
    has(("fp16",))
    with pytest.raises(InputError, match=r"model_fp16.onnx: its inputs or outputs and manifest.json disagree on past"):
        load(lying, threads=1, prepared=False)


@pytest.mark.parametrize(("words", "file", "kind"), CASES)
def test_inspect_says_both_and_which_one_runs(
    bundle: Path, has: Has, words: tuple[str, ...], file: str, kind: str
) -> None:
    has(words)
    said = inspect(bundle)
    listed = said["bundle"]["graphs"]  # type: ignore[index]
    assert [(entry["file"], entry["requires"], entry["states"]) for entry in listed] == [
        (FLOAT16_FILE, ["fp16"], {"float16": 6}),
        (FLOAT32_FILE, [], {"float32": 6}),
    ]
    assert [entry["file"] for entry in listed if entry["runs_here"] == "yes"] == [file]
    assert {entry["state_bytes_per_token"] for entry in listed} == {3 * 2 * 2 * 16 * size for size in (2, 4)}
    lines = format_inspection(said).splitlines()
    reason = "no: model_fp16.onnx is preferred" if kind == "float16" else "no: this processor has no float16 arithmetic"
    assert sum(line.startswith(file) and line.endswith("yes") for line in lines) == 1
    assert sum(line.startswith("model") and line.endswith(reason) for line in lines) == 1


def test_the_commands_take_a_graph(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text(tiny_models.TEXT[:100])
    scores = []
    for file in (FLOAT32_FILE, FLOAT16_FILE):
        words = ["--threads", "1", "--graph", file]
        assert cli.main(["eval", str(bundle), "--text", str(text), "--context", "32", "--json", "--stride", "16",
                         *words]) == 0  # fmt: skip
        scores.append(json.loads(capsys.readouterr().out)["bits_per_byte"])
        assert cli.main(["run", str(bundle), "--prompt", "To be", "--max-tokens", "2", *words]) == 0
        capsys.readouterr()
        few = ["--prompt-lengths", "8", "--decode-tokens", "2", "--repetitions", "1", "--warmup", "0"]
        assert cli.main(["bench", str(bundle), *few, "--json", *words]) == 0
        assert json.loads(capsys.readouterr().out)["ran_on"]["graph"] == file
    assert scores[0] != scores[1]
    assert cli.main(["run", str(bundle), "--prompt", "To be", "--graph", "x.onnx"]) == 2
    assert capsys.readouterr().err == (
        f"edgepress: {bundle} has no graph 'x.onnx'; it has model_fp16.onnx, model.onnx\n"
    )
