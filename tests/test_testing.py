"""Assertions for app teams: each holds where it should, fails where it should, and warns where nothing can be told."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import save

from edgepress import testing
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime.gate.figures import Figure, Gauge, Request
from edgepress.runtime.gate.gauges import energy, instructions, speed
from edgepress.runtime.model import load
from edgepress.testing import (
    Undecided,
    assert_energy_below,
    assert_faster_than,
    assert_instructions_within,
    assert_memory_below,
    assert_parity,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    export(save("llama", directory / "checkpoint"), out=directory / "bundle", recipe="int4")
    return directory / "bundle"


def test_parity_with_itself_and_with_another_model(bundle: Path) -> None:
    model, tokens = load(bundle, prepared=False), [3, 1, 4, 1, 5]
    itself = load(bundle, prepared=False)

    def same(text: Sequence[int]) -> np.ndarray:
        itself.reset()
        return np.stack([itself.prefill([token]).copy() for token in text])

    assert_parity(model, same, tokens, least_sqnr_db=60, least_agreement=1.0)
    with pytest.raises(AssertionError, match="dB above their difference; 15 are asked for"):
        assert_parity(model, lambda text: -same(text), tokens)
    with pytest.raises(AssertionError, match="of the likeliest tokens agree"):
        assert_parity(model, lambda text: same(text)[:, ::-1], tokens, least_sqnr_db=-99, least_agreement=1.0)
    with pytest.raises(AssertionError, match="the reference's logits are"):
        assert_parity(model, lambda text: same(text)[:, :3], tokens)


def made_up(module: object, monkeypatch: pytest.MonkeyPatch, *values: Figure) -> list[list[Request]]:
    """Let a gauge give these figures, one a bundle of a language model; return what it is asked."""
    monkeypatch.setattr(testing, "_is_graph", lambda _bundle: False)
    asked: list[list[Request]] = []

    def take(requests: list[Request]) -> list[list[Figure]]:
        asked.append(requests)
        return [[value] for value in values]

    gauge: Gauge = module.GAUGE  # type: ignore[attr-defined] - a module of a gauge
    monkeypatch.setattr(module, "GAUGE", replace(gauge, take=take))
    return asked


def rate(*values: float, unknown: str = "") -> Figure:
    return Figure("decode_tokens_per_second", "tokens/s", "more", values, unknown=unknown)


def test_faster_than_a_number_and_than_another_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = made_up(speed, monkeypatch, rate(10.0, 10.1, 9.9), rate(12.0, 12.1, 11.9))
    with pytest.raises(AssertionError, match="worse by"):
        assert_faster_than("ours", "theirs", rounds=3)
    assert [request.bundle.name for request in asked[0]] == ["ours", "theirs"]
    assert asked[0][0].options["rounds"] == 3
    assert_faster_than("ours", "theirs", worse_by_most=0.5)
    assert_faster_than("ours", 5.0)
    with pytest.raises(AssertionError, match="is less than 20"):
        assert_faster_than("ours", 20.0)
    with pytest.warns(Undecided, match="has the bound 10 in it"):
        assert_faster_than("ours", 10.0)
    with pytest.raises(InputError, match="no setting 'turns'; known are prompt_length"):
        assert_faster_than("ours", 10.0, turns=3)


def test_energy_without_a_counter_is_undecided_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Figure("joules_per_token", "J", "less", (), unknown="rapl: only root may read it")
    made_up(energy, monkeypatch, unknown)
    with pytest.warns(Undecided, match="only root may read it"):
        assert_energy_below("ours", 0.5)
    with pytest.raises(InputError, match="no figure 'joules_per_word'"):
        assert_energy_below("ours", 0.5, per="word")


def test_instructions_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(instructions, monkeypatch, Figure("per_decoded_token", "million", "less", (100.05,), exact=True))
    assert_instructions_within("ours", 100.0)
    with pytest.raises(AssertionError, match="is more than 99"):
        assert_instructions_within("ours", 99.0)


def test_memory_of_a_real_bundle(bundle: Path) -> None:
    assert_memory_below(bundle, 2000, kind="steady", prompt_length=4, decode_tokens=2)
