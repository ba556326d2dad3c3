"""A draft model in a bundle: made of the model itself, sharing its bytes, and shipped where it is worth it."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import mtp_checkpoints
import numpy as np
import pytest
from tiny_models import TEXT, save

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.cli import main
from edgepress.disk.workspace import beside
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.bundle.draft import COSTS, estimate_worth
from edgepress.exporter.bundle.written.inspection import inspect
from edgepress.exporter.decide.prepare import decide
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.recipe.recipe import Storage, recipe_from_json
from edgepress.runtime import Speculation, load
from edgepress.runtime.config import read_config
from edgepress.runtime.generation.speculation.costs import StepCosts
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.targets import find_target
from edgepress.targets.legality.check import find_models

DRAFT = """
[weights]
bits = 8
[draft]
prune = ["depth"]
gain = {gain}
[draft.weights]
bits = 8
[draft.options.depth]
layers = 1
by = "influence"
"""
ALONE = """
prune = ["depth"]
[options.depth]
layers = 1
by = "influence"
[weights]
bits = 8
"""
TRAINED = (
    DRAFT.replace('["depth"]', '["depth", "retrain"]')
    + """
[draft.options.retrain]
steps = 2
batch = 2
rank = 2
[draft.calibration]
tokens = 128
training_tokens = 128
length = 32
"""
)


def write(folder: Path, text: str, name: str = "recipe") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("draft")
    save("llama", found / "model")
    (found / "text.txt").write_text(TEXT * 40, encoding="utf-8")
    return found


def exported(folder: Path, recipe: str, name: str) -> Path:
    if not (folder / name).exists():
        export(
            folder / "model",
            out=folder / name,
            target="x86-cpu",
            recipe=write(folder, recipe, name),
            calibration=[folder / "text.txt"],
        )
    return folder / name


def logits(config: Any, tokens: np.ndarray) -> np.ndarray:
    return CpuSession(config, threads=1, context=64, prepared=False).append(tokens, 0).copy()


# ---- recipe ----------------------------------------------------------------------------------------------------------


def test_a_draft_is_a_recipe_inside_of_one(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, TRAINED.format(gain=1.2)))
    assert recipe.draft is not None
    assert (recipe.draft.gain, recipe.draft.recipe.prune) == (1.2, ("depth", "retrain"))
    assert recipe.draft.recipe.options["depth"] == {"layers": 1, "by": "influence"}
    assert recipe.draft.recipe.weights == Storage("rtn", 8, 32)
    assert recipe_from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    plain = read_recipe(write(tmp_path, '[weights]\nbits = 8\n[draft]\nprune = ["depth"]'))
    assert plain.draft is not None
    assert plain.draft.recipe.weights == Storage("rtn", 4, 32)
    assert "draft" not in read_recipe("int4").to_json()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("draft = 3", r"\[draft\] must be a table, not 3"),
        ("[draft]", r'\[draft\] needs steps that make it smaller, such as prune = \["depth", "retrain"\]'),
        ('[draft]\nprune = ["depth"]\ngain = -1', r"\[draft\] gain must be a number, 0 or more, not -1"),
        ('[draft]\nprune = ["vocabulary"]', r"\[draft\] prune has vocabulary, and a draft has the model's own tokens"),
        ('[draft]\nprunes = ["depth"]', r"\[draft\] unknown key 'prunes'; did you mean 'prune'\?"),
        ('[draft]\nprune = ["depth"]\n[draft.weights]\nbits = 5', r"\[draft\] \[weights\] bits must be one of"),
        ('[draft]\nprune = ["depth"]\n[draft.cache]\nbits = 8', r"\[draft\] unknown key 'cache'"),
    ],
)
def test_what_a_draft_cannot_be_is_one_error(table: str, message: str, tmp_path: Path) -> None:
    text = f"{table}\n[weights]\nbits = 8" if table.startswith("draft =") else f"[weights]\nbits = 8\n{table}"
    with pytest.raises(InputError, match=message):
        read_recipe(write(tmp_path, text))


# ---- worth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("acceptance", "step"), list(product((0.0, 0.3, 0.7, 0.95, 1.0), (0.0, 0.1, 0.5))))
def test_the_worth_is_that_of_steps_counted_one_by_one(acceptance: float, step: float) -> None:
    """Against drawn texts: a proposal is right with the same chance each time, and the first wrong one ends a step."""
    found = estimate_worth(acceptance, 100, step)
    right = np.random.default_rng(0).random((20_000, found.width)) < acceptance
    tokens = 1 + np.cumprod(right, axis=1).sum(axis=1).mean()
    assert found.speed == pytest.approx(tokens / (COSTS.of(1 + found.width) + step * found.width), rel=0.02)
    others = [sum(acceptance**k for k in range(w + 1)) / (COSTS.of(w + 1) + step * w) for w in range(1, 16)]
    assert found.speed == pytest.approx(max(others))


# ---- bundles ---------------------------------------------------------------------------------------------------------


def test_the_shipped_graph_is_that_of_the_pruned_model_and_shares_its_bytes(folder: Path) -> None:
    """All that a model of fewer layers has is in the model's own data file."""
    bundle, alone = exported(folder, DRAFT.format(gain=0), "shipped"), exported(folder, ALONE, "alone")
    manifest = read_manifest(bundle)
    (entry,) = manifest.drafters
    assert not find_problems(bundle)
    assert (entry.drafter, entry.file) == ("draft", "draft.onnx")
    assert not (bundle / "draft.onnx.data").exists()
    assert entry.about["shared_bytes"] == sum(int(str(one["bytes_after"])) for one in read_manifest(alone).tensors)
    assert entry.about["bytes"] == manifest.files["draft.onnx"].size
    tokens = np.random.default_rng(0).integers(0, 300, 20)
    config = read_config(bundle).of_drafter("draft")
    np.testing.assert_array_equal(logits(config, tokens), logits(read_config(alone), tokens))
    model = logits(read_config(bundle), tokens)
    assert not np.array_equal(model, logits(config, tokens))
    assert [path.name for path in find_models(bundle, find_target("x86-cpu").name)] == ["model.onnx", "draft.onnx"]
    described: Any = inspect(bundle)["bundle"]
    assert described["drafters"][0]["about"]["acceptance"] == entry.about["acceptance"]
    assert main(["inspect", str(bundle)]) == 0


def test_the_acceptance_is_how_often_both_find_one_token_likeliest(folder: Path) -> None:
    bundle = exported(folder, DRAFT.format(gain=0), "shipped")
    about = read_manifest(bundle).drafters[0].about
    model, tokens = load(bundle, threads=1, prepared=False), 0
    config = model.config.of_drafter("draft")
    held = (TEXT * 40).encode()[-2048:].decode()
    agreed = []
    ids = model.tokenizer.encode(held)
    for start in range(0, len(ids) - 32, 32):
        window = np.array(ids[start : start + 48])
        one, other = logits(model.config, window), logits(config, window)
        agreed += (one.argmax(-1) == other.argmax(-1))[16:].tolist()
        tokens += len(window)
    # windows are cut otherwise here, and the text held out is about the same: of some hundred tokens within five errors
    share = float(str(about["acceptance"]))
    assert np.mean(agreed) == pytest.approx(share, abs=5 * np.sqrt(0.25 / len(agreed)))


def test_what_training_left_is_shared_and_the_rest_is_its_own(folder: Path) -> None:
    bundle = exported(folder, TRAINED.format(gain=0), "trained")
    about = read_manifest(bundle).drafters[0].about
    assert 0 < int(str(about["shared_bytes"])) < int(str(about["bytes"])) + int(str(about["shared_bytes"]))
    assert (bundle / "draft.onnx.data").stat().st_size
    assert [step["name"] for step in about["steps"]] == ["original", "depth", "retrain", "bundle"]  # type: ignore[attr-defined]
    prompt = [5, 17, 40, 33, 8, 9, 12]
    model = load(bundle, threads=1)  # from the prepared forms, of which the draft's reads two data files
    wanted = model.generate(prompt, max_tokens=24)
    wanted.text()
    found = model.generate(prompt, max_tokens=24, speculate=Speculation("draft", exact=False))
    found.text()
    assert found.tokens == wanted.tokens
    drafting = model._beside.open(model.config.of_drafter("draft"), model.session)[0]  # type: ignore[arg-type]
    assert drafting.prepared.directory is not None


def test_one_that_is_not_worth_it_is_left_out_with_the_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(folder, DRAFT.format(gain=50), "dear")
    out = folder / "dear"
    arguments = ["--recipe", str(recipe), "--target", "x86-cpu", "--calibration", str(folder / "text.txt")]
    assert main(["export", str(folder / "model"), "--out", str(out), *arguments]) == 0
    manifest = read_manifest(out)
    assert not manifest.drafters
    assert not list(out.glob("draft*"))
    why = manifest.decisions["left_out"]["draft"]  # type: ignore[index]
    assert "as fast (estimate), and the recipe wants 50 ×" in why
    assert f"no draft model: {why}" in capsys.readouterr().out
    assert not find_problems(out)
    assert main(["plan", str(folder / "model"), *arguments]) == 0
    assert "draft        depth: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variant", "target", "before", "drafters"),
    [
        ("llama", "arm64-cpu", "", ["draft"]),  # beside a graph in float16
        ("llama", "x86-cpu", 'prune = ["depth"]\n[options.depth]\nlayers = 2\nby = "influence"\n', ["draft"]),
        ("qwen3_5_text", "x86-cpu", "mtp = true\n", ["mtp", "draft"]),
    ],
    ids=["float16", "pruned", "mtp"],
)
def test_a_draft_goes_together_with_what_else_a_recipe_can_be(
    variant: str, target: str, before: str, drafters: list[str], tmp_path: Path
) -> None:
    checkpoint = (mtp_checkpoints.save if "mtp" in drafters else save)(variant, tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT * 40, encoding="utf-8")
    asked, out = write(tmp_path, before + DRAFT.format(gain=0)), tmp_path / "out"
    manifest = export(checkpoint, out=out, target=target, recipe=asked, calibration=[tmp_path / "text.txt"], threads=1)
    assert [entry.drafter for entry in manifest.drafters] == drafters
    assert not find_problems(out)
    model = load(out, threads=1, prepared=False)
    model.__dict__["step_costs"] = StepCosts({1: 1e3, 2: 1.05e3, 16: 1.6e3}, exact=16)  # beside which drafts are free
    prompt = [5, 17, 40, 33, 8, 9, 12]
    wanted = model.generate(prompt, max_tokens=24)
    wanted.text()
    for drafter in drafters:
        found = model.generate(prompt, max_tokens=24, speculate=Speculation(drafter, exact=False))
        found.text()
        assert found.tokens == wanted.tokens
        assert found.tally is not None
        assert found.tally.proposed


def test_a_killed_export_goes_on_with_its_draft(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepress.exporter.bundle import draft as drafts

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = folder / "killed"
    with monkeypatch.context() as patched:
        patched.setattr(drafts, "measure_draft", killed)
        with pytest.raises(KeyboardInterrupt):
            exported(folder, TRAINED.format(gain=0), "killed")
    assert not out.exists()
    stages = beside(out) / "draft" / "pruning"
    assert sorted(path.name for path in stages.iterdir()) == ["0-depth", "1-retrain", "original.json", "text"]
    exported(folder, TRAINED.format(gain=0), "killed")
    assert not beside(out).exists()
    same = exported(folder, TRAINED.format(gain=0), "trained")
    assert (out / "draft.onnx.data").read_bytes() == (same / "draft.onnx.data").read_bytes()


def test_a_draft_that_cannot_be_made_is_refused_before_the_model_learns(folder: Path) -> None:
    recipe = write(folder, DRAFT.format(gain=0).replace("layers = 1", "layers = 99"), "wrong")
    for wanted in (decide, export):
        more = {} if wanted is decide else {"out": folder / "wrong"}
        with pytest.raises(InputError, match=r"\[draft\]: \[options.depth\] layers = 99 keeps all 3 layers"):
            wanted(folder / "model", target="x86-cpu", recipe=recipe, calibration=[folder / "text.txt"], **more)  # type: ignore[operator]
    assert not (folder / "wrong").exists()
    assert not beside(folder / "wrong").exists()
