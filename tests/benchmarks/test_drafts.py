"""What pages say of drafts and MTP: what one token drawn of two distributions is worth, and what the samples hold."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SAMPLES = Path(__file__).parents[2] / "benchmarks" / "results" / "drafts.jsonl"


def test_equal_distributions_draw_one_token_and_others_less_than_they_have_in_common(
    import_script: Callable[[str], ModuleType],
) -> None:
    same_token = import_script("drafts").same_token
    generator = np.random.default_rng(0)
    p, q = generator.dirichlet(np.ones(6)), generator.dirichlet(np.ones(6))
    assert same_token(p, p) == pytest.approx(1)
    noise = generator.standard_exponential((40_000, 6))
    drawn = np.mean((p / noise).argmax(1) == (q / noise).argmax(1))
    assert same_token(p, q) == pytest.approx(drawn, abs=0.01)
    assert same_token(p, q) < np.minimum(p, q).sum()


def test_no_answer_costs_more_than_the_account_has_and_drawing_is_better_than_the_likeliest() -> None:
    samples = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()[1:]]
    for one in (one for one in samples if one["what"] == "gain"):
        for way, first in (("anew", one["answers"]), ("going on", 1)):
            assert one[way]["right"] <= one[way]["proposed"]
            assert one[way]["spent"] <= 1.015 * one[way]["tokens"] + 0.5 * first
    for one in (one for one in samples if one["what"] == "agreement"):
        assert one["likeliest"] < one["drawn"] < one["best"]
