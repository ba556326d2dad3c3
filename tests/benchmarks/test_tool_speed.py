"""Tools on their own files: what is timed of each, in which order, and the rows that come of it."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(name="speeds")
def _speeds(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("tool_speed")


class Told:
    """A tool that keeps what it is given; its next token is how long the text is."""

    begun: int
    text: list[int]

    def __init__(self, _path: Path, _threads: int, _context: int) -> None:
        Told.begun = 0

    def begin(self, tokens: list[int]) -> int:
        Told.begun, Told.text = Told.begun + 1, []
        return self.append(tokens)

    def append(self, tokens: list[int]) -> int:
        Told.text += tokens
        return len(Told.text)


@pytest.mark.parametrize("tool", ["edgepress", "onnxruntime-genai", "llama.cpp"])
def test_each_length_is_reached_and_a_follow_up_goes_after_the_second(
    speeds: ModuleType, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(speeds.TOOLS, tool, Told)
    found = speeds.run_here(tool, Path(), 1, 1000)
    assert list(found["steps_s"]) == ["64", "1024", "4096"]
    assert all(len(seconds) == speeds.STEPS for seconds in found["steps_s"].values())
    asked = speeds.FOLLOW_UP + speeds.STEPS
    assert list(map(int, found["prefill_s"])) == [64, 1024 - 64 - speeds.STEPS, 4096 - 1024 - asked]
    assert len(Told.text) == 4096 + speeds.STEPS < speeds.CONTEXT
    assert Told.begun == (3 if tool == "onnxruntime-genai" else 2)  # to warm, to measure, and anew for a follow-up
    assert ("follow_up_anew_s" in found) == (tool == "onnxruntime-genai")


def test_tables_have_a_row_for_each_file_and_the_loss_of_each_recipe(speeds: ModuleType) -> None:
    tokens = str(1024 - 64 - speeds.STEPS)
    one: dict[str, Any] = {
        "prefill_s": {"64": 1.0, tokens: 2.0},
        "steps_s": {str(length): [0.01, 0.02, 9.0] for length in speeds.LENGTHS},
        "follow_up_s": 0.3,
        "cold_s": [0.5, 0.6, 0.9],
        "bytes": 90_400_000,
        "load": 0.4,
    }
    samples = [
        {"shape": "a", "threads": 2, "tool": tool, "name": name, "round": 0} | one for tool, name, _ in speeds.CASES
    ]
    samples[3] |= {"follow_up_anew_s": 4.0}
    samples.append({"tool": "llama.cpp", "name": "Q4_0 pure", "model": "demo", "bits_per_byte": 2.5})
    first, second = speeds.report(samples).split("\n\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in first.splitlines()[2:]]
    assert [row[2:4] for row in rows] == [[tool, name] for tool, name, _ in speeds.CASES]
    assert rows[0][4:] == ["90", "468", "20.0", "20.0", "20.0", "300", "0.60", "0.4"]
    assert rows[3][9] == "300; anew 4000"
    scores = [[cell.strip() for cell in line.strip("|").split("|")] for line in second.splitlines()[2:]]
    assert len(scores) == len(speeds.CASES)
    assert scores[4] == ["llama.cpp", "Q4_0 pure", "2.5000", "not measured"]
    assert "not measured" not in scores[0]
