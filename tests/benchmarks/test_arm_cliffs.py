"""The benchmark behind ``targets/legality/arm_cliffs.json``: the table is what was counted."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgepress.sessions import open_on_cpu, session_options
from edgepress.targets.emulator import Installation, System

ROOT = Path(__file__).parents[2]
TABLE = json.loads((ROOT / "targets/legality/arm_cliffs.json").read_text())


@pytest.fixture(name="arm_cliffs")
def _arm_cliffs(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("arm_cliffs")


def test_the_committed_table_is_of_the_raw_counts_of_every_product(arm_cliffs: ModuleType) -> None:
    lines = (ROOT / "benchmarks/results/arm_cliffs.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines[1:]]
    empty = {(sample["cpu"], sample["phase"]): sample["instructions"] for sample in samples if sample.get("bits") == 0}
    for name, key in (("entries", "bits"), ("caches", "cache")):
        raw = [sample for sample in samples if sample.get(key)]
        flat = [(entry, phase) for entry in TABLE[name] for phase in TABLE["tokens"]]
        for sample, (entry, phase) in zip(raw, flat, strict=True):
            label = {key: value for key, value in entry.items() if key not in TABLE["tokens"]}
            assert label.items() <= sample.items()
            assert entry[phase] == sample["instructions"] - empty[sample["cpu"], phase]
    counted = [
        {key: value for key, value in entry.items() if key not in TABLE["tokens"]}
        for cpu in arm_cliffs.CPUS
        for name in ("entries", "caches")
        for entry in TABLE[name]
        if entry["cpu"] == cpu
    ]
    wanted = [(cpu, case) for cpu in arm_cliffs.CPUS for case in arm_cliffs.cases(cpu) if case.label.get("bits") != 0]
    assert counted == [{"cpu": cpu, **case.label} for cpu, case in wanted]


def test_eight_bits_without_dotprod_are_counted_again_as_in_the_table(
    arm_cliffs: ModuleType, emulator: Installation, system: System, tmp_path: Path
) -> None:
    product = {"bits": 8, "block": 32, "accuracy_level": 4, "type": "float", "zero_points": False}
    wanted = [arm_cliffs.Case(label) for label in (arm_cliffs.EMPTY, product)]
    samples = arm_cliffs.count((emulator, system), "cortex-a53", wanted, tmp_path)
    table = {tuple(entry[key] for key in ("cpu", *arm_cliffs.KEYS)): entry for entry in TABLE["entries"]}
    for entry in arm_cliffs.entries(list(samples)):
        same = table[tuple(entry[key] for key in ("cpu", *arm_cliffs.KEYS))]
        for phase in TABLE["tokens"]:
            assert entry[phase] == pytest.approx(same[phase], rel=0.05)


def test_every_kind_of_cache_can_be_run_here(arm_cliffs: ModuleType) -> None:
    for case in (case for case in arm_cliffs.cases("cortex-a76") if case.is_cache):
        session = open_on_cpu(case.model().SerializeToString(), session_options(1))
        output, key, _ = session.run(None, case.inputs(3))
        assert output.shape == (1, 3, arm_cliffs.HEADS * arm_cliffs.HEAD_DIM)
        assert key.shape[:3] == (1, arm_cliffs.KV_HEADS, arm_cliffs.PAST + 3)
