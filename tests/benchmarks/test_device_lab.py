"""The benchmark of the device lab: what it slows, what it keeps, and what its tables say of samples made by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgepress.runtime.model import Model
from edgepress.runtime.profile.passes import speed
from edgepress.runtime.profile.profiling import known_passes


@pytest.fixture(name="lab")
def _lab(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("device_lab")


@pytest.fixture(name="tables")
def _tables(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("device_lab_tables")


def test_a_slowed_step_takes_a_twentieth_longer(
    import_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that only this test turns: a plain step is 1000 ticks, each look at the clock one."""
    passes, clock = import_script("lab_passes"), [0.0]

    def look() -> float:
        clock[0] += 1
        return clock[0]

    def plain(_model: object, token: int) -> int:
        clock[0] += 1000
        return token + 1

    def measured(_arguments: object, _arrays: object) -> tuple[dict[str, float], dict[str, object]]:
        before = clock[0]
        assert Model.decode(None, 7) == 8  # type: ignore[arg-type,comparison-overlap]
        return {"ticks": clock[0] - before}, {}

    monkeypatch.setattr(passes, "perf_counter", look)
    monkeypatch.setattr(Model, "decode", plain)
    monkeypatch.setattr(speed, "measure", measured)
    answer, _ = passes.slowed({}, {})
    assert answer["ticks"] == pytest.approx(1050, abs=3)


def test_another_measure_takes_the_place_of_speed_for_one_profile(
    lab: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(lab, "bundle", lambda _model: Path("bundle"))
    monkeypatch.setattr(lab, "profile", lambda *_, **__: used.append(known_passes()["speed"].measure))
    for how in (lab.slowed, None):
        lab.taken("demo", None, "speed", how)
    assert used == [lab.slowed, speed.measure]


def test_samples_replace_those_of_the_same_part_and_model(
    lab: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "RESULTS", tmp_path)
    monkeypatch.setattr(lab, "save", lambda name, samples: _saved(tmp_path / f"{name}.jsonl", list(samples)))
    lab.keep("gate", [{"model": "demo", "n": 1}])
    lab.keep("limit", [{"model": "demo", "n": 2}])
    lab.keep("gate", [{"model": "smollm2-135m", "n": 3}])
    lab.keep("gate", [{"model": "demo", "n": 4}])
    assert [(one["part"], one["n"]) for one in lab.read()] == [("limit", 2), ("gate", 3), ("gate", 4)]


def _saved(path: Path, samples: list[dict[str, object]]) -> None:
    path.write_text("\n".join(map(json.dumps, [{}, *samples])) + "\n", encoding="utf-8")


def test_what_nobody_measured_is_said_and_has_no_figure(tables: ModuleType) -> None:
    lines = [line for line in tables.report([]).splitlines() if "not measured yet" in line]
    assert len(lines) == len(tables.MODELS) + 6
    assert not any(cell.strip()[:1].isdigit() for line in lines for cell in line.split("|"))


def test_memory_is_what_a_phase_added(tables: ModuleType) -> None:
    sizes = [("before load", 0, 50), ("decoded", 0, 90), ("before load", 1, 60), ("decoded", 1, 81)]
    phases = [
        {"phase": phase, "repeat": repeat, "rss_bytes": size * 1e6, "peak_rss_bytes": size * 1e6 + 5e6}
        | {"anonymous_bytes": 1e6 * size / 2}
        for phase, repeat, size in sizes
    ]
    planned = {"weights": 12e6, "states": 5e6, "nodes": 3e6, "total": 20e6, "prompt": 10e6}
    found = [
        {"part": "memory", "model": "demo", "planned": planned, "process_bytes": 61e6, "phases": phases},
        {"part": "limit", "model": "demo", "limit_bytes": 70e6, "trials": [{"by": "RLIMIT_DATA"}]},
    ]
    row = tables.memory_table(found).splitlines()[2]
    resident, peak = "12.0 | 5.0 | 3.0 | 61.0 | 81.0 | 90.0 | 0.900", "91.0 | 95.0 | 0.958"
    assert row.endswith(f"| {resident} | {peak} | 45.0 | 20.0 | 21.0 | 70.0 (RLIMIT_DATA) |")


def test_what_differs_and_what_failed_is_counted(tables: ModuleType) -> None:
    def ratios(low: float, high: float) -> dict[str, object]:
        one = {"ratio": (low + high) / 2, "low": low, "high": high, "significant": not low <= 1 <= high}
        return dict.fromkeys(("load_seconds", "ttft_seconds at 64", "step_seconds at 64"), one)

    common = {"model": "demo", "load_average": 0.0}
    bounds = [(0.98, 1.02), (1.01, 1.03), (0.9, 0.98), (0.99, 1.01)]
    found = [
        *({"part": "repeats", **common, "ratios": ratios(*pair)} for pair in bounds),
        *({"part": "slowdown", **common, "slower_by": 0.05, "ratios": ratios(*pair)} for pair in bounds),
        *({"part": "gate", **common, "outcome": name} for name in ("kept", "kept", "broken", "undecided")),
    ]
    text = tables.repeated_table(found)
    assert text.count("| 2 differ at 95 % (0.2 expected) |") == 3
    assert "| 4 pairs, one slowed by 5% | 1 found |" in text, "one that seems faster is not found to be slower"
    assert "| 2 kept, 1 undecided, 1 broken |" in text


def test_fitted_figures_stand_beside_measured_ones(tables: ModuleType) -> None:
    calls = {"step_seconds at 256": {"predicted": 0.009, "measured": 0.010}}
    found = {"part": "fit", "model": "demo", "threads": 2, "ahead": True, "load_average": 3.25, "calls": calls}
    row = tables.fit_table([found]).splitlines()[2]
    assert row == "| demo (1.9 M weights) | 2 | step at 256 | 9.0 | 10.0 | 0.900 | 3.2, ahead of it |"
