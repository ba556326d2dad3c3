"""A recipe that prunes an ONNX file, from plan to the bundle: sizes are the same in both, and the bundle runs."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from channel_models import convolutions

from edgepress.bundle.manifest import read_manifest
from edgepress.cli import main
from edgepress.runtime.loading import load
from edgepress.sessions import open_on_cpu

RECIPE = """prune = ["channels", "retrain"]
[options.channels]
share = 0.7
by = "activations"
mend = true
only = "conv_1_0"
[options.retrain]
steps = 8
batch = 4
[weights]
bits = {bits}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(convolutions(["residual", "plain"], 0), tmp_path / "network.onnx")
    images = np.random.default_rng(0).normal(size=(6, 3, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "images.npz", image=images)
    return tmp_path / "network.onnx"


@pytest.mark.parametrize("bits", [32, 8])
def test_plan_and_export_agree_and_the_bundle_runs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bits: int
) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE.format(bits=bits))
    asked = ["--recipe", str(tmp_path / "mine.toml"), "--calibration", str(tmp_path / "images.npz")]
    assert main(["plan", str(model), *asked, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in plan["steps"]] == ["original", "channels"]
    assert plan["steps_not_run"] == ["retrain"]
    assert main(["plan", str(model), *asked]) == 0
    printed = capsys.readouterr().out
    assert "multiply adds" in printed
    assert "not run      retrain: it keeps the sizes" in printed
    out = tmp_path / "out"
    assert main(["export", str(model), *asked, "--check", "--out", str(out)]) == 0
    steps = read_manifest(out).steps
    assert [step["name"] for step in steps] == ["original", "channels", "retrain"]
    assert steps[1] == plan["steps"][1]
    assert steps[1]["multiply_adds"] <= 0.7 * steps[0]["multiply_adds"]
    assert not (tmp_path / ".out.edgepress").exists()
    image = np.load(tmp_path / "images.npz")["image"]
    found = next(iter(load(out).run({"image": image}).values()))
    expected = open_on_cpu(model).run(None, {"image": image})[0]
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    assert main(["verify", str(out)]) == 0
    assert main(["inspect", str(out)]) == 0
    assert "retrain" in capsys.readouterr().out


def test_what_cannot_be_pruned_is_refused_by_both_and_leaves_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for recipe, message in (
        ('prune = ["heads"]\n[weights]\nbits = 8\n', "heads finds no heads in this graph that can go"),
        ('prune = ["vocabulary"]\n[weights]\nbits = 8\n', "vocabulary prunes checkpoints of language models"),
        ('prune = ["depth"]\n[options.depth]\nlayers = 2\n[weights]\nbits = 8\n', "has no option 'layers'"),
        ('prune = ["channels"]\n[options.channels]\nmend = true\n[weights]\nbits = 8\n', "there are none; give some"),
    ):
        (tmp_path / "wrong.toml").write_text(recipe)
        asked = [str(model), "--recipe", str(tmp_path / "wrong.toml")]
        for verb in (["plan", *asked], ["export", *asked, "--out", str(tmp_path / "out")]):
            assert main(verb) == 2
            assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"network.onnx", "images.npz", "wrong.toml"}
