"""The facts that ``plan`` estimates instructions from: near every model that was counted, and fitted to those."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgepress.exporter.decide.instructions import read_table

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "benchmarks/results/arm_instructions.jsonl"
MOST = 0.05  # that an estimate may be off by, of every call that was counted
MOST_OF_MEDIAN = 0.01


_made: list[Any] = []


@pytest.fixture(name="script")
def _script(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("arm_costs")


@pytest.fixture(name="rows")
def _rows(script: ModuleType) -> Any:
    if not _made:  # plans of all that was counted: once
        _made.extend(script.rows_of(json.loads(line) for line in SAMPLES.read_text("utf-8").splitlines()[1:]))
    return _made


def test_an_estimate_is_near_every_count(script: ModuleType, rows: Any) -> None:
    table = read_table()
    off = {sample.key: abs(error) for sample, error in script.errors(rows, table.costs)}
    assert len(off) > 100
    assert max(off.values()) < MOST, max(off, key=lambda key: off[key])
    ordered = sorted(off.values())
    assert ordered[len(ordered) // 2] < MOST_OF_MEDIAN
    # what plan says of itself
    assert max(off.values()) == pytest.approx(table.largest_error, abs=2e-4)
    assert ordered[len(ordered) // 2] == pytest.approx(table.median_error, abs=2e-4)


def test_the_table_is_fitted_to_these_samples(script: ModuleType, rows: Any) -> None:
    costs = script.fit(rows)
    assert costs.keys() == read_table().costs.keys()
    for cpu, phases in read_table().costs.items():
        for phase, operators in phases.items():
            assert costs[cpu][phase].keys() == operators.keys()
            for operator, quantities in operators.items():
                assert costs[cpu][phase][operator] == pytest.approx(dict(quantities), rel=0.01, abs=1e-9)


def test_every_kind_of_product_and_attention_is_held(script: ModuleType, rows: Any) -> None:
    """With half of what one takes, the calls that have it are estimated twice as badly."""
    costs = read_table().costs
    for cpu, phases in costs.items():
        for phase, operators in phases.items():
            for operator in (name for name in operators if "," in name):
                of_it = [
                    row for row in rows if row[0].cpu == cpu and script.phase_of(row[0]) == phase and operator in row[1]
                ]
                if not of_it:  # attention is fitted for all processors together
                    continue
                halved = {name: value / 2 for name, value in operators[operator].items()}
                changed = {**costs, cpu: {**phases, phase: {**operators, operator: halved}}}
                before, after = (
                    sum(abs(error) for _, error in script.errors(of_it, table)) for table in (costs, changed)
                )
                assert after > 2 * before, (cpu, phase, operator)
