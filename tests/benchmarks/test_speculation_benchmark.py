"""What pages say of several tokens a step: how its texts are made, and what the committed samples hold."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SAMPLES = Path(__file__).parents[2] / "benchmarks" / "results" / "speculation.jsonl"


@pytest.fixture(name="speculation")
def _speculation(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("speculation")


def samples(what: str) -> list[dict[str, Any]]:
    lines = SAMPLES.read_text(encoding="utf-8").splitlines()[1:]
    return [one for one in map(json.loads, lines) if one["what"] == what]


def test_an_edit_is_the_passage_with_one_name_replaced(speculation: ModuleType) -> None:
    text = "Ada met Brutus . Brutus saw Ada , Brutus and Cato ; Brutusville is no name of his"
    assert speculation.edited(text) == text.replace("Brutus ", "Quintilian ").replace("Brutus,", "Quintilian,")


def test_a_row_has_medians_and_what_was_right(speculation: ModuleType) -> None:
    one = {"what": "speed", "shape": "s", "threads": 1, "answer": "edit", "tokens": 100, "steps": 25, "proposed": 90}
    rounds = [{"right": 75, "plain_s": 2.0, "speculated_s": 0.8, "load": 0.5} | one] * 2
    table = speculation.report(rounds).splitlines()
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert cells[:6] == ["s", "1", "edit", "100", "4.0", "75 of 90"]
    assert cells[6:] == ["20.0 (20.0–20.0)", "8.0 (8.0–8.0)", "2.50 (2.50–2.50)", "0.5 (0.5–0.5)"]


def test_float32_answers_are_the_plain_ones_and_some_of_integers_part() -> None:
    found = samples("answers")
    assert {one["recipe"] for one in found} == {"fp32", "int8", "int4", "int4-128"}
    for one in found:
        assert one["right"] <= one["proposed"]
        assert one["same"] == sum(length == 96 for length in one["agreed"])
        assert one["same"] == one["prompts"] if one["recipe"] == "fp32" else one["same"] >= 0.8 * one["prompts"]


def test_an_edit_is_written_twice_as_fast() -> None:
    """The goal where an answer repeats its prompt; what is promised of other answers depends on a quiet machine."""
    edits = [one for one in samples("speed") if one["answer"] == "edit"]
    assert edits
    for one in edits:
        assert one["tokens"] / one["steps"] > 3
        assert one["plain_s"] / one["speculated_s"] > 2
