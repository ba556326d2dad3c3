"""Exports with a budget, whole: what is on disk meets it, and a killed one goes on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import TEXT, save

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.budget import measure, sensitivity
from edgepress.exporter.bundle import DATA_FILE
from edgepress.exporter.calibration import run
from edgepress.exporter.report import format_inspection, format_plan, inspect, plan_to_json
from edgepress.manifest import find_problems

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
    assert manifest.budget["rounded_by"] == ["rtn"]
    assert manifest.budget["sequences"] == 6
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
    with pytest.raises(InputError, match=r"size_mb = 0\.01 cannot be met"):
        export(model, out=out, recipe=recipe(tmp_path, "size_mb = 0.01"), calibration=[text], threads=1)
    assert not out.exists()
    monkeypatch.setattr(sensitivity, "divergences", None)  # nothing may ask for a price
    prices: list[object] = []
    original = measure.measure_prices
    monkeypatch.setattr(measure, "measure_prices", lambda *a, **k: prices.append(original(*a, **k)) or prices[0])
    monkeypatch.setattr(measure, "measure_choice", lambda *_: 0.01)
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
    path = recipe(tmp_path, "size_mb = 0.01")
    with pytest.raises(InputError, match=r"size_mb = 0\.01 cannot be met"):
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
