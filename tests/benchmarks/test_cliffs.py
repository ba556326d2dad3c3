"""The benchmark behind ``targets/legality/cliffs.json``: what it tries is what the table has."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgepress.targets.legality.cliffs import Product

ROOT = Path(__file__).parents[2]


@pytest.fixture(name="cliffs")
def _cliffs(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("cliffs")


def test_the_committed_table_has_every_combination_that_is_measured(cliffs: ModuleType) -> None:
    data = json.loads((ROOT / "targets/legality/cliffs.json").read_text())
    keys = tuple(Product.__dataclass_fields__)
    assert [{key: entry[key] for key in keys} for entry in data["entries"]] == cliffs.combinations()


def test_the_table_is_the_best_of_the_raw_samples() -> None:
    lines = (ROOT / "benchmarks/results/cliffs.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines[1:]]
    data = json.loads((ROOT / "targets/legality/cliffs.json").read_text())
    keys = tuple(Product.__dataclass_fields__)
    best = {(*(sample[key] for key in keys), sample["phase"]): min(sample["seconds"]) for sample in samples}
    for entry in data["entries"]:
        for phase in data["tokens"] if "refused" not in entry else ():
            assert entry[phase] == pytest.approx(best[(*(entry[key] for key in keys), phase)] * 1e6, abs=0.1)


@pytest.mark.parametrize("zero_points", [False, True])
def test_a_product_is_measured(cliffs: ModuleType, zero_points: bool) -> None:
    combination = {"bits": 4, "block": 32, "accuracy_level": 4, "type": "float16", "zero_points": zero_points}
    samples = cliffs.measure(cliffs.open_session(combination), 1, cliffs.TYPES["float16"][1])
    assert cliffs.LEAST_RUNS <= len(samples) <= cliffs.MOST_RUNS
    assert min(samples) > 0
