"""Exports with a budget, whole: what is on disk meets it, and a killed one goes on."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tiny_models import TEXT, save
from whole_models import load, log_probabilities, mean_kl

from edgepress.bundle.manifest import find_problems
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.inspection import format_inspection, inspect
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.decide.report import format_plan, plan_to_json
from edgepress.exporter.learn.budget import measure, sensitivity
from edgepress.exporter.learn.calibration import run
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.recipe.recipe import Budget

CALIBRATION = "[calibration]\ntokens = 4096\nlength = 32\n"
CHOICES = "tokens = 192\ncandidates = ['2:32', '4:32', '8:32']\n"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama-tied-llama3", tmp_path_factory.mktemp("model"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 4, encoding="utf-8")
    return path


def recipe(folder: Path, limit: str, weights: str = "", more: str = "") -> Path:
    path = folder / "mine.toml"
    path.write_text(f"[weights]\n{weights}\n[budget]\n{limit}\n{CHOICES}{CALIBRATION}{more}", encoding="utf-8")
    return path


def test_the_data_file_meets_the_size_and_says_why(model: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = recipe(
        tmp_path,
        "size_mb = 0.115",
        "method = 'gptq'",
        "[embedding]\nmethod = 'rtn'\n[[override]]\nmatch = 'layers.0.*'\nbits = 4\n",
    )
    manifest = export(model, out=out, recipe=path, calibration=[text], threads=1, check=True)
    assert find_problems(out) == []
    size = (out / DATA_FILE).stat().st_size
    assert 0.09e6 < size <= 0.115e6
    assert manifest.budget is not None
    assert manifest.budget["limit"] == "size_mb = 0.115"
    assert manifest.budget["used"] == f"{size / 1e6:.6f} MB"
    assert manifest.budget["rounded_by"] == ["gptq", "rtn"]
    assert manifest.budget["sequences"] == 4  # a third of 13 of the text, which has too little for both uses
    prices = manifest.budget["prices"]
    assert isinstance(prices, dict)
    assert set(prices["embedding"]) == {"2:32", "4:32", "8:32"}
    reasons = {str(tensor["name"]): str(tensor["reason"]) for tensor in manifest.tensors}
    assert reasons["layers.0.mlp.up"] == "override 'layers.0.*'"
    assert reasons["layers.1.mlp.up"].startswith("chosen by budget size_mb = 0.115: ")
    methods = {str(tensor["scheme"]["method"]) for tensor in manifest.tensors if tensor["scheme"]}
    assert methods == {"gptq", "rtn"}
    bits = {int(tensor["scheme"]["bits"]) for tensor in manifest.tensors if tensor["scheme"]}
    assert len(bits) > 1
    printed = format_inspection(inspect(out))
    assert "chosen by budget size_mb = 0.115: " in printed
    assert f"{size / 1e6:.6f} MB used" in printed
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_measured_loss_is_that_of_the_bundle_on_text_it_has_not_seen(model: Path, tmp_path: Path) -> None:
    """The bundle's weights put into transformers' own model: what was measured is what is shipped."""
    words = sorted(set(TEXT.split()))
    random = np.random.default_rng(0)
    text = tmp_path / "words.txt"
    text.write_text(" ".join(words[i] for i in random.integers(0, len(words), 2000)), encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(
        "[weights]\nmethod = 'gptq'\n[embedding]\nmethod = 'rtn'\n[calibration]\ntokens = 512\nlength = 32\n"
        "[budget]\nkl = 0.05\ntokens = 128\ncandidates = ['2:32', '4:32', '8:32']\n"
    )
    out = tmp_path / "out"
    prepared = decide(model, target="arm64-cpu", recipe=path, calibration=[text], threads=1)
    manifest = export(model, out=out, recipe=path, calibration=[text], threads=1)
    assert manifest.budget is not None
    shipped = run.given_tokens(prepared, prepared.recipe.calibration, 1)
    more = replace(prepared.recipe.calibration, tokens=512 + 4 * 128)
    both = run.given_tokens(prepared, more, 1)
    assert shipped is not None
    assert both is not None
    assert prepared.recipe.budget is not None
    seen, scored = measure.split_text(shipped.tokens, both.tokens, prepared.recipe, prepared.recipe.budget)
    assert not {row.tobytes() for row in seen} & {row.tobytes() for row in scored}
    assert (seen.shape, scored.shape) == ((16, 32), (manifest.budget["sequences"], 32))

    reference, stored = load(model), load(model)
    weights = StoredWeights(out / DATA_FILE, prepared.plan)
    for name, parameter in stored.named_parameters():
        parameter.data = torch.from_numpy(weights(name)).double()
    expected, found = (log_probabilities(one, torch.from_numpy(scored))[:, 16:] for one in (reference, stored))
    assert manifest.budget["measured_kl"] == pytest.approx(mean_kl(expected, found), rel=0.01)


@pytest.mark.parametrize(
    ("shipped", "tokens", "seen", "scored"),
    [
        (10, 10, 7, 3),  # too little for both: a third
        (2, 2, 2, 2),  # no third of two: the same
        (1, 1, 1, 1),
        (100, 100, 16, 32),  # what the export reads has more than its layers see
        (16, 60, 16, 32),  # it has not: more was read
    ],
)
def test_what_is_measured_on_is_apart_from_what_is_looked_at(shipped: int, tokens: int, seen: int, scored: int) -> None:
    every = np.arange(tokens * 256, dtype=np.int64).reshape(tokens, 256)
    recipe, budget = read_recipe("int4-small"), Budget(kl=1.0, tokens=2048)
    looked_at, measured = measure.split_text(every[:shipped], every, recipe, budget)
    assert (len(looked_at), len(measured)) == (seen, scored)
    both = {row.tobytes() for row in looked_at} & {row.tobytes() for row in measured}
    assert not both or tokens < 3


DATA = Path(os.environ.get("EDGEPRESS_DATA", Path(__file__).parents[5] / "shared/data"))


@pytest.mark.parametrize("name", ["stories260k", "tiny1m"])
def test_int4_small_takes_no_more_than_int4_fast_within_its_limit(name: str, tmp_path: Path) -> None:
    """GPTQ keeps 4 bits in blocks of 128 within 0.15 nats on both, so no larger choice is the smallest."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is absent: real models are read there")
    stories = json.loads((DATA / "text/tinystories/tinystories_1000.json").read_text(encoding="utf-8"))
    paragraph = {"stories260k": "\n", "tiny1m": "\n\n"}[name]  # as each was trained
    text = tmp_path / "stories.jsonl"
    text.write_text("\n".join(json.dumps({"text": story.replace("\n\n", paragraph)}) for story in stories))
    model = DATA / "models" / name
    small, fast = (
        decide(model, target="arm64-cpu", recipe=recipe, calibration=[text], threads=1)
        for recipe in ("int4-small", "int4-fast")
    )
    assert small.budget is not None
    assert float(str(small.budget["measured_kl"])) <= 0.15
    assert small.plan.data_bytes <= fast.plan.data_bytes


def test_a_plan_measures_and_agrees_with_the_export(model: Path, text: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, "kl = 0.05")
    prepared = decide(model, target="arm64-cpu", recipe=path, calibration=[text], threads=1)
    assert "nats a token used" in format_plan(prepared)
    budget = plan_to_json(prepared)["budget"]
    assert isinstance(budget, dict)
    assert budget["measured_kl"] <= 0.05
    manifest = export(model, out=tmp_path / "out", recipe=path, calibration=[text], threads=1)
    assert json.dumps(manifest.budget, sort_keys=True) == json.dumps(budget, sort_keys=True)


def test_what_was_measured_is_not_measured_again(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"kl = 1e-09 cannot be met"):
        export(model, out=out, recipe=recipe(tmp_path, "kl = 1e-9"), calibration=[text], threads=1)
    assert not out.exists()
    monkeypatch.setattr(sensitivity, "divergences", None)  # nothing may ask for a price
    prices: list[object] = []
    original = measure.measure_prices
    monkeypatch.setattr(measure, "measure_prices", lambda *a, **k: prices.append(original(*a, **k)) or prices[0])
    monkeypatch.setattr(measure, "measure_shipped", lambda *_, **__: 0.01)
    manifest = export(model, out=out, recipe=recipe(tmp_path, "size_mb = 0.2"), calibration=[text], threads=1)
    assert manifest.budget is not None
    assert manifest.budget["measured_kl"] == 0.01
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("tensor", ["model.norm.weight", "model.layers.1.mlp.down_proj.weight"])
def test_a_checkpoint_with_nan_is_refused_before_a_price_is_taken(
    tensor: str, model: Path, text: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    tensors[tensor].flat[1] = np.nan
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=rf"{tensor} holds 1 NaN"):
        export(broken, out=tmp_path / "out", recipe=recipe(tmp_path, "size_mb = 0.2"), calibration=[text], threads=1)
    assert not (tmp_path / "out").exists()


def test_what_the_model_wrote_is_not_written_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(tmp_path, "kl = 1e-9")
    with pytest.raises(InputError, match=r"kl = 1e-09 cannot be met"):
        export(model, out=tmp_path / "out", recipe=path, threads=1)
    monkeypatch.setattr(run, "generate_calibration", None)
    manifest = export(model, out=tmp_path / "out", recipe=recipe(tmp_path, "size_mb = 0.2"), threads=1)
    assert manifest.budget is not None
    assert manifest.budget["text"] == "the model's own generations"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_time_is_a_budget_too(model: Path, text: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, "ms_per_token = 1000")
    prepared = decide(model, target="arm64-cpu", recipe=path, calibration=[text], threads=1)
    bits = {tensor.scheme.bits for tensor in prepared.plan.tensors if tensor.scheme is not None}
    assert bits == {8}  # the best of the candidates: any is fast enough
    assert "ms a token used" in format_plan(prepared)
