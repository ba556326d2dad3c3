"""The benchmark of pruning: its recipes are read as they were meant, and its table says what was measured."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from edgepress.exporter.learn.pruning.run import find_steps
from edgepress.exporter.methods.kinds import zeros_asked
from edgepress.exporter.recipe.reading import read_recipe


@pytest.fixture(name="pruning")
def _pruning(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("pruning")


@pytest.mark.parametrize("model", ["demo", "stories260k", "tiny1m"])
def test_every_recipe_is_read_as_it_was_meant(model: str, pruning: ModuleType, tmp_path: Path) -> None:
    recipes = list(pruning.chosen(model))
    assert not recipes[0].steps
    assert len({one.slug for one in recipes}) == len(recipes)
    for one in recipes:
        recipe = read_recipe(one.write(tmp_path / f"{one.slug}.toml"))
        recipe = replace(recipe, calibration=replace(recipe.calibration, text=("given by --calibration",)))
        steps = {step.name: step.options for step in find_steps(recipe)}
        expected = dict(one.steps) | ({"retrain": one.retrain} if one.retrain else {})
        assert list(steps) == list(expected)
        for name, options in expected.items():
            assert {key: steps[name][key] for key in options} == options
        assert (recipe.weights.bits, recipe.weights.method) == (one.bits, one.method)
        assert zeros_asked(one.method, recipe) == ("50% zeros" if "half zeros" in one.what else "")
        assert recipe.after == (("distill",) if one.distill else ())
        if one.distill:
            assert {key: recipe.options["distill"][key] for key in one.distill} == one.distill


def test_speeds_are_ratios_of_the_same_round(pruning: ModuleType) -> None:
    same = {"model": "demo", "parameters": 10, "bytes": 4_000_000, "layer_parameters": 8}
    whole = {**same, "name": "original", "bits_per_byte": 2.0, "ms_per_token": [1.0, 4.0, 1.0]}
    half = {
        **same,
        "name": "half",
        "bits_per_byte": 2.1,
        "layer_parameters": 4,
        "bytes": 2_000_000,
        "ms_per_token": [0.5, 1.0, 1.0],
    }
    row = dict(zip(pruning.HEADER, list(pruning.rows([whole, half]))[1], strict=True))
    assert row["of the layers' weights"] == "50%"
    assert row["MB"] == "2.00"
    assert row["against the original"] == "+5.0%"
    assert row["speed ÷ the original's"] == "2.00 (1.00–4.00)"
    assert row["tokens/s"] == "1,000"
