"""The benchmark behind ``targets/legality/arm_cliffs.json``: the table is what was counted."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgepress.targets.emulator import Installation, System

ROOT = Path(__file__).parents[2]
TABLE = json.loads((ROOT / "targets/legality/arm_cliffs.json").read_text())


@pytest.fixture(name="arm_cliffs")
def _arm_cliffs(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("arm_cliffs")


def test_the_committed_table_is_of_the_raw_counts_of_every_product(arm_cliffs: ModuleType) -> None:
    lines = (ROOT / "benchmarks/results/arm_cliffs.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines[1:]]
    empty = {(sample["cpu"], sample["phase"]): sample["instructions"] for sample in samples if sample["bits"] == 0}
    raw = [sample for sample in samples if sample["bits"]]
    flat = [(entry, phase) for entry in TABLE["entries"] for phase in TABLE["tokens"]]
    for sample, (entry, phase) in zip(raw, flat, strict=True):
        assert {key: entry[key] for key in ("cpu", *arm_cliffs.KEYS)} == {
            key: sample[key] for key in ("cpu", *arm_cliffs.KEYS)
        }
        assert entry[phase] == sample["instructions"] - empty[sample["cpu"], phase]
    counted = [{key: entry[key] for key in arm_cliffs.KEYS} for entry in TABLE["entries"]]
    assert counted == arm_cliffs.products()[1:] * len(arm_cliffs.CPUS)


def test_eight_bits_without_dotprod_are_counted_again_as_in_the_table(
    arm_cliffs: ModuleType, emulator: Installation, system: System, tmp_path: Path
) -> None:
    product = {"bits": 8, "block": 32, "accuracy_level": 4, "type": "float", "zero_points": False}
    wanted = [arm_cliffs.EMPTY, arm_cliffs.FLOAT, product]
    samples = arm_cliffs.count((emulator, system), "cortex-a53", wanted, tmp_path)
    table = {tuple(entry[key] for key in ("cpu", *arm_cliffs.KEYS)): entry for entry in TABLE["entries"]}
    for entry in arm_cliffs.entries(list(samples)):
        same = table[tuple(entry[key] for key in ("cpu", *arm_cliffs.KEYS))]
        for phase in TABLE["tokens"]:
            assert entry[phase] == pytest.approx(same[phase], rel=0.05)
