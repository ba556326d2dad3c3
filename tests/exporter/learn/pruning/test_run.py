"""Exports that prune: steps in the manifest, kept and resumed with the same bytes, and text that no step sees."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from killing import Killing
from prune_tasks import tiny

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.cli import main
from edgepress.disk import workspace
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.written.inspection import format_inspection, inspect
from edgepress.exporter.decide.report import format_plan, plan_to_json
from edgepress.exporter.learn.pruning import run as module
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.recipe.recipe import OptionValue
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams import documents as texts
from edgepress.runtime.measures.evaluate import evaluate
from edgepress.terminal.progress import silent

RECIPE = """
prune = ["depth", "mlp_width"]
[weights]
method = "gptq"
bits = 4
[embedding]
method = "rtn"
bits = 8
[options.mlp_width]
share = 0.6
[calibration]
tokens = 512
length = 64
"""
TEXT = "".join(f"{number}: to be, or not to be, that is question {number * number}.\n" for number in range(600))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("steps")
    tiny("qwen2", home)
    (home / "recipe.toml").write_text(RECIPE)
    (home / "text.txt").write_text(TEXT)
    return home


def make(
    home: Path, out: Path, recipe: str | Path = "recipe.toml", text: str | Path = "text.txt", **arguments: object
) -> None:
    """Export the model of ``home``; recipe and text are there too, or elsewhere by an absolute path."""
    export(home / "qwen2", out=out, recipe=home / recipe, calibration=[home / text], threads=1, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bundle(home: Path) -> Path:
    make(home, home / "bundle", check=True)
    return home / "bundle"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def aside(home: Path) -> Path:
    """A folder with what is held out of the text."""
    folder = home / "aside"
    if not folder.exists():
        texts.hold_out([home / "text.txt"], folder)
    return folder


def test_every_step_is_in_the_manifest_and_in_what_inspect_prints(bundle: Path, home: Path) -> None:
    manifest = read_manifest(bundle)
    steps = {str(step["name"]): step for step in manifest.steps}
    assert list(steps) == ["original", "depth", "mlp_width", "bundle"]
    sizes = [int(str(step["parameters"])) for step in manifest.steps]
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3]
    assert steps["bundle"]["bytes"] == (bundle / "model.onnx.data").stat().st_size
    assert steps["original"]["bytes"] == sum(t.nbytes for t in Checkpoint.open(home / "qwen2").tensors.values())
    scored = sum(len(text.encode()) for text in texts.held_out(aside(home)))
    assert steps["original"]["scored_bytes"] == scored
    assert len(steps["depth"]["removed_layers"]) == 1  # type: ignore[arg-type]
    assert len(steps["mlp_width"]["widths"]) == 2  # type: ignore[arg-type]
    assert manifest.parity is not None  # the reference loads the pruned checkpoint
    assert find_problems(bundle) == []
    assert manifest.source == Checkpoint.open(home / "qwen2").source_hashes()
    assert manifest.recipe["prune"] == ["depth", "mlp_width"]
    printed = format_inspection(inspect(bundle))
    for step in manifest.steps:
        assert f"{step['bits_per_byte']:.4f}" in printed
    assert json.loads(json.dumps(inspect(bundle)))["bundle"]["steps"] == list(manifest.steps)
    assert not list(home.glob(".bundle*"))


def test_the_scores_are_those_of_the_text_that_was_held_out(bundle: Path, home: Path, tmp_path: Path) -> None:
    """The float32 bundle of the original scores what the manifest says of the original."""
    held = texts.held_out(aside(home))
    export(home / "qwen2", out=tmp_path / "whole", recipe="fp32", threads=1)
    steps = {step["name"]: step["bits_per_byte"] for step in read_manifest(bundle).steps}
    whole = evaluate(tmp_path / "whole", held, context=128, stride=64, prepared=False, threads=1)
    assert whole.bits_per_byte == pytest.approx(steps["original"], abs=1e-4)
    last = evaluate(bundle, held, context=128, stride=64, prepared=False, threads=1)
    assert last.bits_per_byte == pytest.approx(steps["bundle"], abs=1e-4)


def test_no_step_and_no_calibration_sees_what_is_held_out(home: Path, tmp_path: Path) -> None:
    """With another end of the text every weight is the same, and only scores differ."""
    make(home, tmp_path / "one")
    changed = TEXT[:-300] + "Something else altogether. " * 11 + "\n\n\n"
    assert len(changed) == len(TEXT)
    (tmp_path / "text.txt").write_text(changed)
    make(home, tmp_path / "two", text=tmp_path / "text.txt")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert {name for name in one if one[name] != two[name]} == {"manifest.json"}
    before, after = (read_manifest(tmp_path / name).steps for name in ("one", "two"))
    assert [step["bits_per_byte"] for step in before] != [step["bits_per_byte"] for step in after]


KILLED = """
import sys, time
from edgepress.exporter import export
from edgepress.exporter.methods.smaller import checkpoint
from edgepress.exporter.learn.pruning import run
model, recipe, out, text, place = sys.argv[1:]

def waits_at(original, number):
    turns = iter(range(1000))
    def function(*args, **kwargs):
        if next(turns) == number:
            print("here", flush=True)
            time.sleep(60)
        return original(*args, **kwargs)
    return function

if place == "bundle":
    story = sys.modules["edgepress.exporter.export"]
    story.settle = waits_at(story.settle, 0)
else:
    step, piece = map(int, place.split("."))
    if piece:
        run._finish = waits_at(run._finish, 1 + step)  # the text is finished first
    else:
        checkpoint._encoded = waits_at(checkpoint._encoded, 9 + 50 * step)
export(model, out=out, recipe=recipe, calibration=[text], threads=1)
"""


@pytest.mark.parametrize(
    ("place", "goes_on"),
    [("0.0", ""), ("1.1", "continuing after step 0, depth"), ("bundle", "continuing after step 1, mlp_width")],
)
def test_killed_anywhere_it_goes_on_and_gives_the_same_bytes(
    place: str,
    goes_on: str,
    bundle: Path,
    home: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    killing: Killing,
) -> None:
    """While the first step writes, when the second is about to be in place, and after the last."""
    out = tmp_path / "killed"
    killing.kill_at_its_word(KILLED, home / "qwen2", home / "recipe.toml", out, home / "text.txt", place)
    assert not out.exists()
    done = [path.name for path in (tmp_path / ".killed.edgepress" / "pruning").iterdir()]
    assert {"text", "original.json"} <= set(done)
    assert ("0-depth" in done) == (place != "0.0")
    assert ("1-mlp_width" in done) == (place == "bundle")
    with caplog.at_level(logging.WARNING):
        make(home, out, check=True)
    assert goes_on in caplog.text
    assert bool(goes_on) == ("continuing" in caplog.text)
    assert contents(out) == contents(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["killed"]


def test_a_kept_step_is_not_run_again_and_a_damaged_one_is(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, source = read_recipe(home / "recipe.toml"), Checkpoint.open(home / "qwen2")
    recipe = replace(recipe, calibration=replace(recipe.calibration, text=(str(home / "text.txt"),)))

    def prune() -> module.Pruned:
        return module.prune(source, recipe, [], folder=tmp_path / "steps", threads=1, progress=silent)

    (tmp_path / "steps").mkdir()
    first = prune()
    before = contents(tmp_path / "steps")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_do", None)
        assert prune().steps == first.steps
    assert [path.name for path in (tmp_path / "steps" / "0-depth").iterdir()] == ["step.json"]  # the next step is done
    weights = tmp_path / "steps" / "1-mlp_width" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    prune()
    assert "1-mlp_width is damaged" in caplog.text
    assert contents(tmp_path / "steps") == before


def test_without_text_the_model_s_own_is_taken(home: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("tokens = 512", "tokens = 4096"))
    export(home / "qwen2", out=tmp_path / "bundle", recipe=tmp_path / "recipe.toml", threads=1)
    manifest = read_manifest(tmp_path / "bundle")
    assert [step["name"] for step in manifest.steps] == ["original", "depth", "mlp_width", "bundle"]
    assert manifest.calibration is not None
    assert manifest.calibration["text"] == ["generations.jsonl"]


def test_plan_has_the_sizes_of_the_bundle(bundle: Path, home: Path) -> None:
    prepared = decide(
        home / "qwen2", target="arm64-cpu", recipe=home / "recipe.toml", calibration=[home / "text.txt"], threads=1
    )
    manifest = read_manifest(bundle)
    assert prepared.plan.data_bytes == (bundle / "model.onnx.data").stat().st_size
    steps = plan_to_json(prepared)["steps"]
    assert isinstance(steps, list)
    assert [step["parameters"] for step in steps] == [step["parameters"] for step in manifest.steps[:-1]]
    assert "removed layers" in format_plan(prepared)
    place = prepared.checkpoint.directory
    assert place.is_dir()
    del prepared
    assert not place.exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ('prune = ["deth"]', "unknown compression method 'deth'; did you mean 'depth'"),
        ('prune = ["depth"]\nafter = ["distil"]', "unknown compression method 'distil'; did you mean 'distill'"),
        ('prune = ["depth"]\nafter = ["distill"]\n[options.distill]\nstep = 2', "has no option 'step'"),
        ('prune = ["gptq"]', "gptq does not make a smaller model"),
        ('prune = "depth"', "prune must be a list of names"),
        ('prune = ["depth"]\n[options.depth]\nlayer = 2', "has no option 'layer'; did you mean 'layers'"),
        (
            'prune = ["depth"]\n[options.depth]\nlayers = "two"',
            "[options.depth] layers must be a whole number, not 'two'",
        ),
        ('prune = ["depth"]\n[options.heads]\nheads = 1', "[options.heads] is for heads, and `prune` has depth; add"),
        ('prune = ["depth"]\n[options.dept]\nlayers = 2', "unknown compression method 'dept'; did you mean 'depth'"),
        ('prune = ["depth"]\n[options.depth]\nlayers = 0', "[options.depth] layers = 0: give more than 0, or leave"),
        ('prune = ["depth"]\n[options.depth]\nshare = 0.0', "[options.depth] share = 0.0: give more than 0"),
        ('prune = ["low_rank"]', "low_rank was removed: at the same size fewer bits lost less"),
        ('prune = ["depth"]\n[options.low_rank]\nrank = 8', "or mlp_width in `prune`"),
        ('[embedding]\nmethod = "hqq"', "hqq was removed: it was about as accurate as rtn; use rtn"),
        ('prune = ["depth", "retrain"]\n[options.retrain]\nrate = inf', "rate must be a finite number, not inf"),
        ('prune = ["depth"]\n[options.depth]\nlayers = 1\nshare = 0.5', "keep one of them"),
        ('prune = ["depth", "mlp_width"]\n[options.mlp_width]\nshare = 0.01', "leaves a layer with none"),
    ],
)
def test_bad_recipes_are_refused_by_name(
    recipe: str, message: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.toml"
    text = recipe.split("\n[options", 1)
    path.write_text("\n[options".join([f"{text[0]}\n[weights]\nbits = 4\n", *text[1:]]))
    command = ["export", str(home / "qwen2"), "--recipe", str(path), "--out", str(tmp_path / "out")]
    assert main([*command, "--calibration", str(home / "text.txt"), "--threads", "1"]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize(
    ("prune", "options", "message"),
    [
        (["mlp_width", "depth"], {"depth": {"layers": 9}}, "keeps all 3 layers"),
        (["depth", "mlp_width"], {"mlp_width": {"share": 0.01}}, "leaves a layer with none"),
        (["depth", "mlp_width"], {"mlp_width": {"by": "luck"}}, "must be one of activations, loss"),
        (["mlp_width", "hidden"], {"hidden": {"size": 64}}, "keeps all 64 channels"),
        (["hidden", "heads"], {"heads": {"kv_heads": 7}}, "each key-value head that stays"),
        (["depth", "vocabulary"], {"vocabulary": {"least": 0}}, "at least 1"),
        (["hidden", "depth", "retrain"], {"retrain": {"steps": 0}}, "steps must be at least 1"),
        (["hidden", "retrain"], {"retrain": {"hidden": 1.0}}, "the step hidden before it changes their size"),
        (["depth", "mlp_width"], {"mlp_width": {"tokens": 1}}, r"\[options.mlp_width\] tokens must be at least 2"),
        (["vocabulary", "vocabulary"], {}, "vocabulary is in `prune` twice"),
        (["retrain", "depth"], {}, "nothing to learn: no step comes before it"),
        (["vocabulary", "retrain"], {}, "nothing to learn: only vocabulary comes before it"),
    ],
)
def test_what_a_later_step_cannot_do_is_refused_before_the_first(
    prune: list[str], options: dict[str, dict[str, OptionValue]], message: str, home: Path, tmp_path: Path
) -> None:
    recipe, source = read_recipe(home / "recipe.toml"), Checkpoint.open(home / "qwen2")
    text = replace(recipe.calibration, text=(str(home / "text.txt"),))
    recipe = replace(recipe, prune=tuple(prune), options=options, calibration=text)
    with pytest.raises(InputError, match=message):
        module.prune(source, recipe, [], folder=tmp_path, threads=1, progress=silent)
    assert list(tmp_path.iterdir()) == []  # not even text was held out


def test_a_size_that_an_earlier_step_changes_is_not_asked_of_the_original(home: Path, tmp_path: Path) -> None:
    """Two of three layers, twice: the second step alone can see that there is nothing to remove."""
    recipe, source = read_recipe(home / "recipe.toml"), Checkpoint.open(home / "qwen2")
    text = replace(recipe.calibration, text=(str(home / "text.txt"),))
    recipe = replace(recipe, prune=("depth", "depth"), options={"depth": {"layers": 2}}, calibration=text)
    with pytest.raises(InputError, match="keeps all 2 layers"):
        module.prune(source, recipe, [], folder=tmp_path, threads=1, progress=silent)
    assert (tmp_path / "0-depth").is_dir()


@pytest.mark.parametrize(
    ("prune", "options", "message", "left"),
    [
        ("vocabulary", "[options.vocabulary]\nsize = 5", "set size to", False),
        ('depth", "depth', "[options.depth]\nlayers = 2", "keeps all 2 layers", True),
    ],
)
def test_what_a_refused_step_leaves_is_said_or_nothing(
    prune: str,
    options: str,
    message: str,
    left: bool,
    home: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Steps that are refused when they start: the first has nothing to go on from, the second has what was done."""
    (tmp_path / "recipe.toml").write_text(f'prune = ["{prune}"]\n[weights]\nbits = 4\n{options}\n')
    with pytest.raises(InputError, match=message):
        make(home, tmp_path / "out", recipe=tmp_path / "recipe.toml")
    kept = tmp_path / ".out.edgepress"
    assert kept.exists() == left
    assert (f"what is done is kept in {kept}" in caplog.text) == left
    assert not (tmp_path / "out").exists()


def test_export_prints_what_the_steps_cost_against_the_model_that_was_given(
    bundle: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(home / "qwen2"), "--recipe", str(home / "recipe.toml"), "--out", str(tmp_path / "out")]
    assert main([*command, "--calibration", str(home / "text.txt"), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    steps = read_manifest(bundle).steps
    whole = (home / "qwen2" / "model.safetensors").stat().st_size
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir() if path.name != "manifest.json")
    assert abs(int(str(steps[0]["bytes"])) - whole) < 0.1 * whole  # the header of the file is its difference
    assert f"in the checkpoint {int(str(steps[0]['bytes'])) / 1e6:,.1f} MB → bundle {size / 1e6:,.1f} MB" in printed
    scores = " → ".join(f"{step['name']} {float(str(step['bits_per_byte'])):.4f}" for step in steps)
    assert f"bits per byte of held-out text: {scores}" in printed


def test_blame_says_that_it_cannot(bundle: Path, home: Path) -> None:
    from edgepress.exporter.learn.loss_by_tensor import measure_loss_by_tensor

    with pytest.raises(InputError, match=r"was pruned \(depth, mlp_width\)"):
        measure_loss_by_tensor(bundle, home / "qwen2", threads=1)


def test_two_exports_to_one_place_do_not_meet(home: Path, tmp_path: Path) -> None:
    with (
        workspace.held(tmp_path / ".out.edgepress", "the test works"),
        pytest.raises(InputError, match="another export works in"),
    ):
        make(home, tmp_path / "out")
