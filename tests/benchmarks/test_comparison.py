"""The comparison of tools: its rows from raw samples, and what counts as shipped."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(name="comparison")
def _comparison(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("comparison")


def test_a_row_has_the_loss_of_the_small_model_and_medians_of_the_large_one(comparison: ModuleType) -> None:
    loss = {"bits_per_weight": 4.5, "kl": 0.01234}
    turns = [
        {"bytes": 90_400_000, "prefill_cpu_s": seconds, "steps_cpu_s": [0.010, 0.012, 9.0], "resident_bytes": 2e8}
        for seconds in (0.5, 1.0, 2.0)
    ]
    row = comparison.row("a", "b", loss, turns)
    assert row == ("a", "b", "4.50", "0.0123", "90", "256 (128–512)", "12.0 (12.0–12.0)", "200 (200–200)")
    assert comparison.row("a", "b", None, turns)[2:4] == ("not measured", "not measured")


def test_what_is_shipped_is_all_but_the_tokenizer(comparison: ModuleType, tmp_path: Path) -> None:
    for name, size in (("model.onnx", 10), ("model.onnx.data", 100), ("tokenizer.json", 1000), ("a.gguf", 7)):
        (tmp_path / name).write_bytes(b"0" * size)
    assert comparison.shipped(tmp_path / "a.gguf") == 7
    assert comparison.shipped(tmp_path) == 117


def test_every_case_has_its_samples(comparison: ModuleType) -> None:
    """Which report finds by their names."""
    assert {tool for tool, _, _ in comparison.CASES} == {*comparison.TOOLS, "optimum"} == set(comparison.FILES)
