"""The model's own text as calibration: drawn as its probabilities say, the same for the same seed, nothing left."""

import re
from pathlib import Path

import numpy as np
import pytest
from tiny_models import TEXT, save

from edgepress.bundle.fingerprint import leak_warning
from edgepress.bundle.manifest import find_problems
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.learn.calibration.generate import draw, generate_calibration
from edgepress.exporter.recipe.recipe import CalibrationText
from edgepress.exporter.source.checkpoint import Checkpoint

SETTINGS = CalibrationText(tokens=70, length=32, seed=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("model") / "checkpoint")


def generate(checkpoint: Path, folder: Path, settings: CalibrationText = SETTINGS, threads: int = 1) -> list[list[int]]:
    counts: list[int] = []
    found = generate_calibration(
        Checkpoint.open(checkpoint),
        settings,
        folder=folder,
        context_length=128,
        threads=threads,
        progress=counts.append,
    )
    assert sum(counts) == found.tokens.size
    rows: list[list[int]] = found.tokens.tolist()
    return rows


def test_tokens_are_drawn_with_their_probabilities() -> None:
    probabilities = np.array([0.5, 0.0, 0.3, 0.2])
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities).astype(np.float32) + 7
    generator = np.random.default_rng(0)
    counts = np.bincount([draw(logits, generator) for _ in range(4000)], minlength=4)
    assert counts[1] == 0
    assert np.abs(counts / 4000 - probabilities).max() < 0.03  # four standard deviations


def test_sequences_begin_with_bos_and_depend_on_the_seed_only(checkpoint: Path, tmp_path: Path) -> None:
    tokens = generate(checkpoint, tmp_path)
    assert [len(row) for row in tokens] == [32, 32, 32]  # 70 tokens, rounded up to whole sequences
    assert [row[0] for row in tokens] == [1, 1, 1]
    assert tokens[0] != tokens[1]
    assert not any(2 in row for row in tokens)  # the end of a text begins another one
    assert generate(checkpoint, tmp_path, threads=2) == tokens
    assert generate(checkpoint, tmp_path, CalibrationText(tokens=70, length=32, seed=4)) != tokens
    assert list(tmp_path.iterdir()) == []


def test_a_length_above_the_context_is_refused_before_anything_is_written(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="length is 256, the model's context 128"):
        generate(checkpoint, tmp_path, CalibrationText())
    assert list(tmp_path.iterdir()) == []


RECIPE = '[weights]\nmethod = "gptq"\nbits = 4\n[embedding]\nmethod = "rtn"\n[calibration]\ntokens = 64\nlength = 32\n'


def test_a_bundle_knows_a_long_text_that_it_was_calibrated_on_and_keeps_nothing_of_a_short_one(
    checkpoint: Path, tmp_path: Path
) -> None:
    words = np.random.default_rng(0).choice(TEXT.split(), 8000)
    recipe = tmp_path / "recipe.toml"
    for name, size, count in (("long", "tokens = 8192\nlength = 128", 8000), ("short", "tokens = 64\nlength = 32", 50)):
        recipe.write_text(RECIPE.replace("tokens = 64\nlength = 32", size))
        (tmp_path / name).write_text(" ".join(words[:count]))
        export(checkpoint, out=tmp_path / f"{name}-out", recipe=recipe, calibration=[tmp_path / name], threads=1)
        assert find_problems(tmp_path / f"{name}-out") == []
    warning = leak_warning(tmp_path / "long-out", [" ".join(words)])
    assert warning is not None
    shares = [int(share) for share in re.findall(r"(\d+)%", warning)]
    assert shares[1] > 85, "of the calibration's runs, all but what the cutting into sequences takes"
    other = np.random.default_rng(1).choice(TEXT.split(), 8000)
    assert leak_warning(tmp_path / "long-out", [" ".join(other)]) is None
    assert not (tmp_path / "short-out" / "calibration.json").exists()


def test_an_export_without_text_calibrates_on_it(checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    manifest = export(checkpoint, out=tmp_path / "out", recipe=recipe, threads=1)
    assert manifest.calibration is not None
    assert manifest.calibration["text"] == "the model's own generations"
    assert manifest.calibration["sequences"] == 2
    assert "calibration.json" not in manifest.files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recipe.toml"]
