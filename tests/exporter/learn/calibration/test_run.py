"""Calibrated exports, whole: killed and resumed, checked, and run by programs that we did not write."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killing import Killing
from safetensors.numpy import load_file
from tiny_models import TEXT, save

from edgepress.bundle.manifest import find_problems
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.learn.calibration import run as module
from edgepress.exporter.learn.calibration.engine import Calibration
from edgepress.exporter.learn.calibration.run import layers_first
from edgepress.exporter.model.network import logits
from edgepress.exporter.recipe.decisions import decisions_from_json
from edgepress.exporter.recipe.recipe import CalibrationText
from edgepress.runtime.config import read_config
from edgepress.runtime.measures.evaluate import Scorer
from edgepress.text.windows import Window

RECIPE = """
[weights]
method = "gptq"
bits = 4
block_size = 32
[embedding]
method = "rtn"
[calibration]
tokens = 256
length = 32
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A tiny checkpoint, a recipe and a text."""
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    return save("qwen2", tmp_path / "model"), tmp_path / "recipe.toml", tmp_path / "text.txt"


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_an_export_is_checked_and_runs(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, recipe, text = files
    out = tmp_path / "out"
    manifest = export(model, out=out, recipe=recipe, calibration=[text], check=True, threads=1)
    assert find_problems(out) == []
    assert not hidden(tmp_path)  # the working directory is gone
    assert manifest.calibration is not None
    assert manifest.calibration["text"] == ["text.txt"]
    assert manifest.calibration["sequences"] == 8
    methods = {str(tensor["scheme"]["method"]) for tensor in manifest.tensors if tensor["scheme"]}
    assert methods == {"gptq", "rtn"}
    assert all(tensor["sqnr_db"] > 8 for tensor in manifest.tensors if tensor["scheme"])
    # the runtime, in float32 products, gives the logits of the stored weights
    prepared = decide(model, target="arm64-cpu", recipe=recipe)
    stored = StoredWeights(out / DATA_FILE, prepared.plan)
    tokens = np.arange(3, 43, dtype=np.int64)
    expected = logits(prepared.decoder, lambda weight: torch.from_numpy(stored.value(weight)), tokens)
    scorer = Scorer(read_config(out), context=64, threads=1, prepared=False)
    found = np.concatenate([rows for _, rows in scorer.pieces(Window(tokens, 39))])
    assert np.abs(found - expected[:-1]).max() < 0.1 * np.abs(expected).max()  # it computes in int8


def test_the_same_inputs_give_the_same_bundle(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, recipe, text = files
    one, two = (
        export(model, out=tmp_path / name, recipe=recipe, calibration=[text], threads=1) for name in ("one", "two")
    )
    assert one == two


# Sleeps where the name of the function and its argument say, for the test to kill it there.
KILLED = """
import sys, time
from edgepress.exporter import export
from edgepress.exporter.learn.calibration import engine
from edgepress.exporter.learn.calibration import generate
model, recipe, out, place, *text = sys.argv[1:]

def waits_at(original, number):
    turns = iter(range(1000))
    def function(*args):
        if next(turns) == number:
            print("here", flush=True)
            time.sleep(60)
        return original(*args)
    return function

if place == "layer":
    engine.Calibration._layer = waits_at(engine.Calibration._layer, 2)
else:
    generate._fill = waits_at(generate._fill, 1)
export(model, out=out, recipe=recipe, calibration=text, threads=1)
"""


def kill(killing: Killing, place: str, model: Path, recipe: Path, out: Path, text: list[Path]) -> None:
    """Export in another process, and kill it in its third layer, or in the second sequence that the model writes."""
    killing.kill_at_its_word(KILLED, model, recipe, out, place, *text)
    assert not out.exists()
    assert [path.name for path in hidden(out.parent) if path.suffix != ".partial"] == [".killed.edgepress"]


@pytest.mark.parametrize("own", [False, True], ids=["text", "own text"])
def test_killed_in_a_layer_it_goes_on_and_gives_the_same_bundle(
    own: bool,
    files: tuple[Path, Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    killing: Killing,
) -> None:
    model, recipe, text = files
    texts = [] if own else [text]
    whole = export(model, out=tmp_path / "whole", recipe=recipe, calibration=texts, threads=1)
    kill(killing, "layer", model, recipe, tmp_path / "killed", texts)
    monkeypatch.setattr(module, "generate_calibration", None)  # what the model wrote is not written again
    resumed = export(model, out=tmp_path / "killed", recipe=recipe, calibration=texts, threads=1)
    assert "after stage 0001-layer" in caplog.text
    assert resumed == whole
    assert not hidden(tmp_path)


def test_killed_while_the_model_writes_it_begins_anew_and_leaves_nothing(
    files: tuple[Path, Path, Path], tmp_path: Path, killing: Killing
) -> None:
    model, recipe, _ = files
    whole = export(model, out=tmp_path / "whole", recipe=recipe, threads=1)
    kill(killing, "generate", model, recipe, tmp_path / "killed", [])
    assert export(model, out=tmp_path / "killed", recipe=recipe, threads=1) == whole
    assert not hidden(tmp_path)


def test_more_text_of_its_own_is_another_calibration(
    files: tuple[Path, Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, killing: Killing
) -> None:
    model, recipe, _ = files
    kill(killing, "layer", model, recipe, tmp_path / "killed", [])
    recipe.write_text(RECIPE.replace("tokens = 256", "tokens = 288"), encoding="utf-8")
    manifest = export(model, out=tmp_path / "killed", recipe=recipe, threads=1)
    assert "after stage" not in caplog.text
    assert manifest.calibration is not None
    assert manifest.calibration["sequences"] == 9


def test_the_callers_number_of_threads_is_restored(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, recipe, text = files
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        export(model, out=tmp_path / "out", recipe=recipe, calibration=[text], threads=1)
        assert torch.get_num_threads() == 3
        text.write_text("", encoding="utf-8")
        with pytest.raises(InputError):
            export(model, out=tmp_path / "other", recipe=recipe, calibration=[text], threads=2)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_text_that_cannot_be_used_leaves_nothing(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, recipe, _ = files
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    for texts, message in (([tmp_path / "empty.txt"], "empty|no text"), ([tmp_path / "absent.txt"], "absent.txt")):
        with pytest.raises(InputError, match=message):
            export(model, out=tmp_path / "out", recipe=recipe, calibration=texts, threads=1)
    assert not hidden(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_repair_that_would_cost_too_much_is_left_out_and_said(
    files: tuple[Path, Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, recipe, text = files
    large = tmp_path / "large.toml"
    large.write_text(f'after = ["distill"]\n{recipe.read_text()}\n[options.distill]\nmost_weights = 1000\n')
    prepared = decide(model, target="arm64-cpu", recipe=large)
    assert prepared.recipe.after == ()
    assert "most_weights is 1,000" in prepared.decisions.left_out["distill"]
    manifest = export(model, out=tmp_path / "out", recipe=large, calibration=[text], threads=1)
    assert "distill is left out" in caplog.text
    assert manifest.calibration is not None
    assert list(manifest.calibration["left_out"]) == ["distill"]
    plain = export(model, out=tmp_path / "plain", recipe=recipe, calibration=[text], threads=1)
    assert manifest.files["model.onnx.data"] == plain.files["model.onnx.data"]


def test_layers_that_would_cost_too_much_to_learn_are_rounded_by_what_that_begins_with(
    files: tuple[Path, Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same bytes as of a recipe that asks for no more, and the manifest says both: what was asked, and why not."""
    model, plain, text = files
    learned, most = tmp_path / "learned.toml", most_weights(model)
    learned.write_text(
        plain.read_text().replace('"gptq"', '"autoround"') + f"[options.autoround]\nmost_weights = {most - 1}\n"
    )
    prepared = decide(model, target="arm64-cpu", recipe=learned, calibration=[text])
    assert prepared.asked.weights.method == "autoround"
    assert set(prepared.plan.methods) == {"gptq", "rtn"}
    assert f"it would train {most:,} weights" in prepared.decisions.left_out["autoround"]
    manifest = export(model, out=tmp_path / "out", recipe=learned, calibration=[text], threads=1)
    assert "autoround is left out" in caplog.text
    assert "gptq rounds in its place" in caplog.text
    assert manifest.decisions["rounded_by"] == {"autoround": "gptq"}
    gptq = export(model, out=tmp_path / "plain", recipe=plain, calibration=[text], threads=1)
    assert manifest.files["model.onnx.data"] == gptq.files["model.onnx.data"]
    assert [tensor["scheme"] for tensor in manifest.tensors] == [tensor["scheme"] for tensor in gptq.tensors]


def test_layers_are_learned_up_to_as_many_weights_as_the_recipe_allows(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    model, plain, text = files
    learned = tmp_path / "learned.toml"
    learned.write_text(
        plain.read_text().replace('"gptq"', '"autoround"')
        + f"[options.autoround]\nmost_weights = {most_weights(model)}\n"
    )
    prepared = decide(model, target="arm64-cpu", recipe=learned, calibration=[text])
    assert set(prepared.plan.methods) == {"autoround", "rtn"}
    assert not prepared.decisions.left_out


def test_layers_that_are_learned_see_the_text_that_they_ask_for_and_the_whole_model_more(
    files: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, plain, text = files
    recipe, seen = tmp_path / "learned.toml", []
    original = module.Calibration

    def spy(*arguments: Any, tokens: np.ndarray, layer_sequences: int, **named: Any) -> Calibration:
        seen.append((len(tokens), layer_sequences))
        return original(*arguments, tokens=tokens, layer_sequences=layer_sequences, **named)

    monkeypatch.setattr(module, "Calibration", spy)
    begun = plain.read_text().replace('"gptq"', '"autoround"').replace("tokens = 256", "tokens = 64")
    for asked, after, expected in ((128, "", (4, 4)), (128, 'after = ["distill"]\n', (8, 4)), (0, "", (8, 8))):
        recipe.write_text(
            f"{after}{begun}training_tokens = 256\n[options.distill]\nsteps = 1\n"
            f"[options.autoround]\nsteps = 1\ntokens = {asked}\n"
        )
        export(model, out=tmp_path / "out", recipe=recipe, calibration=[text], threads=1, force=True)
        assert seen.pop() == expected


@pytest.mark.parametrize("learned", [True, False])
def test_where_a_repair_is_left_out_layers_are_learned_in_its_place_up_to_a_limit_too(
    learned: bool, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    model, plain, text = files
    recipe, same = tmp_path / "mine.toml", tmp_path / "same.toml"
    most = most_weights(model) - (not learned)
    options = "training_tokens = 256\n[options.autoround]\nsteps = 4\n"
    recipe.write_text(
        f'after = ["distill"]\n{plain.read_text()}{options}most_weights = {most}\n'
        '[options.distill]\nmost_weights = 1000\ninstead = "autoround"\n'
    )
    same.write_text(plain.read_text().replace('"gptq"', '"autoround"' if learned else '"gptq"') + options)
    manifest = export(model, out=tmp_path / "out", recipe=recipe, calibration=[text], threads=1)
    assert manifest.decisions["rounded_by"] == ({"gptq": "autoround"} if learned else {"autoround": "gptq"})
    left_out = decisions_from_json(manifest.decisions).left_out
    assert set(left_out) == {"distill", "autoround"} - ({"autoround"} if learned else set())
    assert ("autoround learns layers in its place" in left_out["distill"]) == learned
    assert decide(model, target="arm64-cpu", recipe=recipe, calibration=[text]).decisions.left_out == left_out
    other = export(model, out=tmp_path / "same", recipe=same, calibration=[text], threads=1)
    assert manifest.files["model.onnx.data"] == other.files["model.onnx.data"]
    assert [tensor["scheme"] for tensor in manifest.tensors] == [tensor["scheme"] for tensor in other.tensors]


def test_a_repair_that_is_done_has_nothing_in_its_place(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, plain, text = files
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'after = ["distill"]\n{plain.read_text()}[options.distill]\nmost_weights = 10_000_000\ninstead = "autoround"\n'
    )
    prepared = decide(model, target="arm64-cpu", recipe=recipe, calibration=[text])
    assert not prepared.decisions.left_out
    assert not prepared.decisions.rounded_by
    assert set(prepared.plan.methods) == {"gptq", "rtn"}


def most_weights(model: Path) -> int:
    """Numbers in the projections of a checkpoint's layers, which are what autoround trains."""
    tensors = load_file(model / "model.safetensors")
    return sum(value.size for name, value in tensors.items() if ".layers." in name and value.ndim == 2)


@given(sequences=st.integers(1, 40), tokens=st.integers(1, 500))
def test_the_layers_see_some_of_what_the_whole_model_is_trained_on(sequences: int, tokens: int) -> None:
    text = np.arange(sequences * 8).reshape(sequences, 8)
    arranged, count = layers_first(text, CalibrationText(tokens=tokens, length=8))
    assert sorted(arranged.tolist()) == text.tolist()  # the same sequences, each once
    assert count == min(sequences, -(-tokens // 8))
    seen = sorted(int(row[0]) // 8 for row in arranged[:count])
    assert max(np.diff([0, *seen, sequences])) <= -(-sequences // count)  # spread over the text
