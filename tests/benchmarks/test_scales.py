"""What pages say of scales in float16, held against the committed samples."""

import json
from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).parents[2] / "benchmarks" / "results" / "scales.jsonl"


def pairs() -> list[dict[str, dict[str, Any]]]:
    """Each model and preset with both kinds of scales."""
    lines = SAMPLES.read_text(encoding="utf-8").splitlines()[1:]
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for one in map(json.loads, lines):
        found.setdefault((one["model"], one["preset"]), {})[one["scales"]] = one
    assert len(found) == 9
    return list(found.values())


@pytest.mark.parametrize("pair", pairs(), ids=lambda pair: "{model}, {preset}".format(**pair["float32"]))
def test_half_a_bit_or_less_and_the_same_accuracy(pair: dict[str, dict[str, Any]]) -> None:
    single, half = pair["float32"], pair["float16"]
    assert (single["forms"], half["forms"]) == (["blocks"], ["half blocks"])
    assert single["tokens"] == half["tokens"]
    saved = single["bits_per_weight"] - half["bits_per_weight"]
    block = 32 if single["preset"] != "int4-128" else 64 if single["model"] == "stories260k" else 128
    assert 0.99 < saved / (16 / block) < 1.1  # norms have no scales, and rows are padded to whole blocks
    if single["kl"] > 0.001:
        assert half["kl"] == pytest.approx(single["kl"], rel=0.004)
    assert half["bits_per_byte"] == pytest.approx(single["bits_per_byte"], rel=0.0005)
