"""The recipes that accuracy.py asks for are recipes, and its answer to the goal is what the figures say."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgepress.exporter.compress import method_names
from edgepress.exporter.recipe import read_recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="accuracy")
def _accuracy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import accuracy

    yield accuracy
    for name in ("accuracy", "accuracy_recipes", "accuracy_picture", "accuracy_tables", "spread", "common", "peers"):
        sys.modules.pop(name, None)


def test_every_recipe_of_the_grid_is_read_as_it_was_meant(accuracy: ModuleType, tmp_path: Path) -> None:
    recipes = [*accuracy.grid(), *accuracy.chosen(), *accuracy.sequences()]
    assert len({recipe.name for recipe in accuracy.grid()}) == len(list(accuracy.grid()))
    assert set().union(*(recipe.methods for recipe in recipes)) == set(method_names())
    for asked in recipes:
        recipe = read_recipe(asked.write(tmp_path))
        assert (recipe.before, recipe.after) == (asked.before, asked.after)
        found = recipe.weights
        assert (found.method, found.bits, found.symmetric) == (asked.method, asked.bits, asked.symmetric)
        assert found.block_size == (0 if asked.block_size == "channel" else asked.block_size)


@pytest.mark.parametrize(
    ("kl", "bits", "answers"),
    [
        (0.010, 4.25, ("yes (0.50)", "yes (0.67)", "yes")),
        (0.012, 4.97, ("no (0.60)", "yes (0.80)", "no")),
        (0.016, 5.10, ("no (0.80)", "no (1.07)", "no")),
    ],
)
def test_the_goal_is_answered_from_the_figures(
    accuracy: ModuleType, kl: float, bits: float, answers: tuple[str, ...]
) -> None:
    fast = {"bits_per_weight": bits, "kl": kl}
    nearest = {"bits_per_weight": 5.0, "kl": 0.020}
    k_quant = {"bits_per_weight": 4.96, "kl": 0.015}
    assert accuracy.answer(fast, nearest, k_quant, lambda found: found["kl"]) == answers


def test_a_reference_is_asked_once_for_each_window(accuracy: ModuleType) -> None:
    import numpy as np

    class Counted:
        calls = 0

        def logits(self, tokens: np.ndarray) -> np.ndarray:
            self.calls += 1
            return np.outer(tokens, np.ones(3)).astype(np.float32)

    source = Counted()
    reference = accuracy.Remembered(source)
    for tokens in (np.arange(4), np.arange(5), np.arange(4)):
        assert np.array_equal(reference.logits(tokens), np.outer(tokens, np.ones(3)))
    assert source.calls == 2
