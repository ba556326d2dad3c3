"""What measures and places a bundle that is no language model: bench, gate, prepare, ORT format, check, emulator."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_models import MODELS, feed_of, save

from edgepress.bundle.manifest import find_problems
from edgepress.cli import main
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.measures.bench_graph import bench_graph
from edgepress.sessions import open_on_cpu
from edgepress.targets import find_target
from edgepress.targets.legality.check import check


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("tied", "convolutions"):
        file = save(MODELS[name](), folder / f"{name}.onnx")
        export(file, out=folder / name, recipe="int4", target=["arm64-cpu", "android-cpu"], threads=1)
        np.savez(folder / f"{name}.npz", **feed_of(onnx.load(file)))
    return folder


def test_bench_takes_inputs_of_any_type(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = bench_graph(home / "tied", repetitions=3, warmup=2, threads=1, prepared=False)
    assert made.shapes == {"ids": (1, 8)}
    assert (len(made.run_seconds), len(made.warmup_seconds)) == (3, 2)
    words = ["bench", str(home / "tied"), "--inputs", str(home / "tied.npz"), "--repetitions", "2", "--json"]
    assert main([*words, "--no-prepare"]) == 0
    assert json.loads(capsys.readouterr().out)["shapes"] == {"ids": [2, 6]}
    assert main(["bench", str(home / "tied"), "--inputs", str(home / "convolutions.npz")]) == 2
    assert "ids is missing and x is no input; the model takes ids int64 (batch, tokens)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tied", "convolutions"])
def test_ort_format_computes_the_same(name: str, home: Path) -> None:
    assert not find_problems(home / name)
    graph = home / name / "android-cpu" / "model.ort"
    assert (graph.parent / "required_operators_and_types.config").is_file()
    with np.load(home / f"{name}.npz") as arrays:
        feed = dict(arrays)
    here = load(home / name, prepared=False).run(feed)
    there = open_on_cpu(graph).run(list(here), feed)
    for one, value in zip(here, there, strict=True):
        assert np.abs(here[one] - value).max() <= 1e-5 * np.abs(value).max()


def test_prepare_makes_the_mapped_form(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path))
    assert main(["prepare", str(home / "tied")]) == 0
    assert main(["prepare", str(home / "tied"), "--check"]) == 0
    assert "byte for byte what the bundle gives" in capsys.readouterr().out


def test_check_places_the_nodes_of_a_bundle(home: Path) -> None:
    (cpu, *_) = check(home / "convolutions", find_target("arm64-cpu"))
    assert cpu.full
    (coreml, *_) = check(home / "convolutions", find_target("ios-coreml"))
    assert any(placement.op == "Conv" and placement.runs_on == coreml.provider for placement in coreml.placements)


def test_the_emulator_takes_the_graph_of_a_bundle(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emulator", "run", str(home / "tied"), "--prompt", "a"]) == 2
    assert "is an ONNX model, which takes no --prompt" in capsys.readouterr().err
