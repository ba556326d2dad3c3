"""One export that prunes, distils, rounds by calibration and repairs; killed in the middle, the same bytes."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import Killing
from tokenizers import Tokenizer
from whole_models import load, mean_kl

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.cli import main
from edgepress.exporter import export
from edgepress.exporter.bundle.written.inspection import format_inspection, inspect
from edgepress.exporter.demo import DEMO_DIRECTORY
from edgepress.exporter.learn.calibration.run import read_tokens
from edgepress.exporter.learn.pruning.run import prune
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.learned import split
from edgepress.exporter.streams.training import Training
from edgepress.terminal.progress import silent

RECIPE = """
prune = ["vocabulary", "mlp_width", "retrain"]
after = ["distill"]
[weights]
method = "gptq"
bits = 4
[embedding]
method = "rtn"
bits = 8
[calibration]
tokens = 512
training_tokens = 1024
length = 64
[options.vocabulary]
size = 640
[options.retrain]
steps = 8
batch = 2
rate = 0.005
[options.distill]
steps = 8
batch = 2
"""
LINES = (
    "ROMEO: what light is this that breaks upon the east, and makes the envious moon so pale with grief?",
    "JULIET: good night, good night! parting is such sweet sorrow, that I shall say good night till morning.",
    "MERCUTIO: ask for me to-morrow, and you shall find me a grave man; a plague on both your houses!",
    "NURSE: now, by my life, I would not have it so; go in, my lady, for your father calls and supper waits.",
)
STEPS = ["original", "vocabulary", "mlp_width", "retrain", "bundle"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("combined")
    (home / "recipe.toml").write_text(RECIPE)
    random = np.random.default_rng(0)
    words = " ".join(LINES).split()
    (home / "text.txt").write_text(
        "".join(f"{LINES[i % 4]}\n{' '.join(random.permutation(words)[:12])}.\n" for i in range(150))
    )
    return home


def make(home: Path, out: Path) -> None:
    export("demo", out=out, recipe=home / "recipe.toml", calibration=[home / "text.txt"], threads=1)


@pytest.fixture(scope="module")
def bundle(home: Path) -> Path:
    make(home, home / "bundle")
    return home / "bundle"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_steps_effect_is_in_the_manifest_and_in_what_inspect_prints(bundle: Path) -> None:
    steps = read_manifest(bundle).steps
    assert [step["name"] for step in steps] == STEPS
    parameters, sizes = ([int(str(step[key])) for step in steps] for key in ("parameters", "bytes"))
    assert parameters[0] > parameters[1] > parameters[2] == parameters[3] == parameters[4]
    assert sizes[:4] == [2 * count for count in parameters[:4]]  # bfloat16
    assert sizes[4] == (bundle / "model.onnx.data").stat().st_size < sizes[3] / 2
    scores = [float(str(step["bits_per_byte"])) for step in steps]
    assert scores[3] < scores[2]  # what channels took, distillation gives back in part
    printed = format_inspection(inspect(bundle))
    for step in steps:
        row = rf"^{step['name']} +{step['parameters']:,} +[\d.]+ +{step['bits_per_byte']:.4f}"
        assert re.search(row, printed, re.MULTILINE), step["name"]
    assert "3-retrain.svg" in printed
    curve = steps[3]["curve"]
    assert isinstance(curve, list)
    assert steps[3]["held_out_loss"] == pytest.approx([curve[0][2], min(point[2] for point in curve)], abs=1e-4)
    assert f"held out loss {steps[3]['held_out_loss']}" in printed
    assert find_problems(bundle) == []


KILLED = """
import sys, time
from edgepress.exporter import export
from edgepress.exporter.learn.calibration.engine import Calibration
from edgepress.exporter.streams.training import Training
out, recipe, text, place = sys.argv[1:]
story = sys.modules["edgepress.exporter.export"]
owner, name, turn = {
    "retrain": (Training, "step", 3),
    "pruned": (story, "settle", 0),
    "calibration": (Calibration, "_layer", 1),
    "distill": (Training, "step", 5),
    "scores": (story, "describe_steps", 0),
}[place]
original, turns = getattr(owner, name), iter(range(100))

def waits(*args, **kwargs):
    if next(turns) == turn:
        print("here", flush=True)
        time.sleep(600)
    return original(*args, **kwargs)

setattr(owner, name, waits)
export("demo", out=out, recipe=recipe, calibration=[text], threads=1)
"""


def kill(killing: Killing, home: Path, out: Path, place: str) -> None:
    """Export in another process, and kill that when it is at ``place``."""
    killing.kill_at_its_word(KILLED, out, home / "recipe.toml", home / "text.txt", place)
    assert not out.exists()
    for partial in out.parent.glob(f".{out.name}.*.partial"):
        os.utime(partial, (0, 0))  # those that are seconds old may be another process's, not locked yet, and stay


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    bundle: Path, home: Path, tmp_path: Path, killing: Killing
) -> None:
    """In retrain's training, after the last step, between two layers of gptq, in distill's training, at the end."""
    out, pruning, calibration = (
        tmp_path / name for name in ("killed", ".killed.edgepress/pruning", ".killed.edgepress/calibration")
    )
    kill(killing, home, out, "retrain")
    assert (pruning / "1-mlp_width").is_dir()
    assert not (pruning / "2-retrain").exists()
    assert (pruning / "2-retrain.state/retrain.state").is_file()
    kill(killing, home, out, "pruned")
    assert (pruning / "2-retrain").is_dir()
    assert not calibration.exists()
    kill(killing, home, out, "calibration")
    assert [path.name for path in calibration.glob("*-*.safetensors")] == ["0000-layer.safetensors"]
    kill(killing, home, out, "distill")
    assert (calibration / "distill.state").is_file()
    kill(killing, home, out, "scores")
    assert [path.name for path in calibration.glob("*-distill.*")] == ["0004-distill.safetensors"]
    make(home, out)
    assert contents(out) == contents(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["killed"]


def test_the_original_is_no_reference_for_another_vocabulary(
    bundle: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = read_manifest(bundle).steps[1]["vocabulary"]
    assert isinstance(tokens, list)
    command = ["eval", str(bundle), "--text", str(home / "text.txt"), "--reference", "demo", "--no-prepare"]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert f"has {tokens[1]} tokens since its vocabulary was pruned, and demo has {tokens[0]}" in message
    assert "compare bits per byte" in message


@pytest.mark.parametrize("before", [["vocabulary"], ["vocabulary", "mlp_width"]])
def test_distillation_after_a_vocabulary_step_compares_with_the_original_s_logits_of_kept_tokens(
    before: list[str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first loss is the KL of the two models as transformers runs them in float64, on tokens that all stay."""
    recipe = read_recipe(home / "recipe.toml")
    retrain = {**recipe.options["retrain"], "truth": 1e-12}  # without any, retraining after vocabulary is refused
    recipe = replace(
        recipe,
        options={**recipe.options, "retrain": retrain, "mlp_width": {"uniform": True}},
        calibration=replace(recipe.calibration, text=(str(home / "text.txt"),)),
    )
    monkeypatch.setattr(Training, "step", lambda *_: None)
    folders = tmp_path / "before", tmp_path / "all"
    for folder, steps in zip(folders, (before, [*before, "retrain"]), strict=True):
        folder.mkdir()
        asked, source = replace(recipe, prune=tuple(steps)), Checkpoint.open(DEMO_DIRECTORY)
        pruned = prune(source, asked, [], folder=folder, threads=1, progress=silent)
    stage = folders[0] / f"{len(before) - 1}-{before[-1]}"  # what retraining began with
    checkpoint = Checkpoint.open(stage)
    kept = torch.from_numpy(np.load(stage / "kept_tokens.npy"))
    settings = replace(recipe.calibration, text=pruned.text, tokens=recipe.calibration.training_tokens)
    tokens = read_tokens(checkpoint, read_decoder(checkpoint), settings, 0, 512).tokens
    sequences = torch.from_numpy(tokens[split(len(tokens), recipe.calibration.seed, "retrain")[1]])
    original = Tokenizer.from_file(str(DEMO_DIRECTORY / "tokenizer.json"))
    for row in sequences:  # every token of the text is kept, so that the original is asked what it always was
        text = original.decode(kept[row[1:]].tolist(), skip_special_tokens=False)
        assert set(original.encode(text).ids) <= set(kept.tolist())
    with torch.no_grad():
        wanted = load(DEMO_DIRECTORY)(kept[sequences]).logits[..., kept].log_softmax(-1)
        found = load(stage)(sequences).logits.log_softmax(-1)
    expected = mean_kl(wanted, found)
    curve = pruned.steps[-1]["curve"]
    assert isinstance(curve, list)
    assert curve[0][2] == pytest.approx(expected, rel=1e-4, abs=2e-6)
    assert (expected < 1e-12) == (before == ["vocabulary"])
