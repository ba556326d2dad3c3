"""Calibration that cannot be done, as a user meets it: exit code 2, one line that says why, no bundle; and the remedy
that the line names works, going on from what was done."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import TEXT, save

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")
GPTQ = """[weights]
method = "gptq"
bits = 4
block_size = 32
[embedding]
method = "rtn"
{budget}
[calibration]
tokens = 256
length = 32
[options.gptq]
damping = {damping}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    return tmp_path / "text.txt"


def write_recipe(folder: Path, *, budget: str = "", damping: float = 0.01) -> Path:
    (folder / "recipe.toml").write_text(GPTQ.format(budget=budget, damping=damping), encoding="utf-8")
    return folder / "recipe.toml"


def export(model: Path, recipe: Path, text: Path, out: Path) -> int:
    return main(["export", *map(str, [model, "--recipe", recipe, "--calibration", text, "--out", out]), "--threads=1"])


def refusal(captured: pytest.CaptureFixture[str], out: Path) -> str:
    """What the refused export printed; it left no bundle, nor a part of one."""
    printed = captured.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line.startswith("edgepress: ")]
    assert len(lines) == 1
    assert "Traceback" not in printed.err
    assert not out.exists()
    assert not list(out.parent.glob("*.partial"))
    return lines[0]


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_text_without_any(content: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, out = tmp_path / "empty.txt", tmp_path / "out"
    empty.write_text(content, encoding="utf-8")
    assert export(model, write_recipe(tmp_path), empty, out) == 2
    assert "empty.txt is empty; give a file with text in it" in refusal(capsys, out)
    assert not list(tmp_path.glob(".*"))


def test_one_word_again_and_again(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    word, out = tmp_path / "word.txt", tmp_path / "out"
    word.write_text("the " * 2000, encoding="utf-8")
    assert export(model, write_recipe(tmp_path, damping=0.0), word, out) == 2
    line = refusal(capsys, out)
    assert re.search(r"layers\.0\.\S+: the Hessian of \d+ inputs is singular .* with damping 0; raise .* damping", line)
    assert not list(tmp_path.glob(".*"))
    assert export(model, write_recipe(tmp_path, damping=0.01), word, out) == 0
    assert find_problems(out) == []


def test_a_checkpoint_with_nan(model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, out = tmp_path / "broken", tmp_path / "out"
    broken.mkdir()
    for path in model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][2, 3] = np.nan
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    assert export(broken, write_recipe(tmp_path), text, out) == 2
    line = refusal(capsys, out)
    assert "model.layers.1.mlp.down_proj.weight holds 1 NaN and 0 infinite values, the first at [2, 3]" in line


@pytest.mark.parametrize("key", ["size_mb", "memory_mb", "kl"])
def test_a_budget_that_cannot_be_met_names_the_smallest_that_can(
    key: str, model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    budget = '[budget]\n{} = {}\ntokens = 96\ngroup = "layer"\ncandidates = ["4:32", "8:32"]'
    assert export(model, write_recipe(tmp_path, budget=budget.format(key, 1e-7)), text, out) == 2
    line = refusal(capsys, out)
    named = re.search(rf"\[budget\] {key} = 1e-07 cannot be met.*the smallest that can is {key} = ([\d.e-]+): ", line)
    assert named is not None
    smallest = float(named[1]) * (1 + 1e-5 if key == "kl" else 1)  # KL is printed with six digits
    assert export(model, write_recipe(tmp_path, budget=budget.format(key, smallest)), text, out) == 0
    assert find_problems(out) == []
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("method", ["gptq", "autoround"])
def test_a_table_that_nothing_goes_into_is_rounded_to_nearest(
    method: str, model: Path, text: Path, tmp_path: Path
) -> None:
    """A recipe need not name another method for the embedding; the plan says which it took."""
    recipe = tmp_path / "short.toml"
    settings = "[calibration]\ntokens = 256\ntraining_tokens = 256\nlength = 32\n"
    steps = "[options.autoround]\nsteps = 2\n" if method == "autoround" else ""
    recipe.write_text(f'[weights]\nmethod = "{method}"\nbits = 4\n{settings}{steps}', encoding="utf-8")
    assert export(model, recipe, text, tmp_path / "bundle") == 0
    schemes = {str(tensor["name"]): tensor for tensor in read_manifest(tmp_path / "bundle").tensors}
    embedding, head = (schemes[name]["scheme"] for name in ("embedding", "head"))
    assert isinstance(embedding, dict)
    assert isinstance(head, dict)
    assert (embedding["method"], head["method"]) == ("rtn", method)
    assert f"rtn, as {method} looks at what goes into a projection" in str(schemes["embedding"]["reason"])
