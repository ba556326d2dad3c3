"""Where a cold start goes: stages add up, what has no column is the tool's own, a process has nothing else in it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="starts")
def _starts(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("cold_start")


def test_stages_are_medians_of_milliseconds_and_their_sum_has_a_range(starts: ModuleType) -> None:
    key = {"shape": "a", "tool": "edgepress", "name": "int4"}
    samples = [
        key | {"cpu_s": {"interpreter": 0.01, "numpy": 0.03, "onnxruntime": 0.02, "edgepress": 0.04 * factor,
                         "opening": 0.1, "first token": 0.2}, "peak_bytes": 150_400_000}
        for factor in (1, 2, 5)
    ]  # fmt: skip
    _, _, line = starts.report(samples).splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["a", "edgepress", "int4", "10", "30", "100", "100", "200", "440 (400–560)", "150"]


def test_a_cold_process_has_nothing_of_the_benchmarks_in_it() -> None:
    code = "import json, sys, tool_text; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not {name for name in loaded if name.split(".")[0] in {"edgepress", "numpy", "peers", "common", "onnx"}}
