"""Comparisons of made-up profiles: what is refused, what is said to have changed, what differs."""

from typing import Any

import numpy as np
import pytest

from edgepress.errors import InputError
from edgepress.runtime.profile.compare import compare, format_comparison, incomparable
from edgepress.runtime.profile.records import SCHEMA, Header, Profile, Record, Round, Sample
from edgepress.runtime.profile.settings import Settings


def made_up(
    seconds: float = 0.01, seed: int = 0, governor: str = "performance", energy: float | None = None, **changes: Any
) -> Profile:
    settings = Settings(threads=2, prompt_lengths=(64,)).to_json() | changes.pop("settings", {})
    header: dict[str, Any] = {
        "schema": SCHEMA, "started": "", "bundle": "b", "bundle_hash": "a" * 64, "bundle_bytes": 1000,
        "device": "local", "description": {}, "versions": {"onnxruntime": "1"}, "settings": settings,
    }  # fmt: skip
    chance = np.random.default_rng(seed)
    records: list[Record] = []
    moment = {"seconds": 0.0, "governors": [governor], "allowed_mhz": [2000.0]}
    for number in range(8):
        values = [seconds * float(np.exp(chance.normal(0, 0.01)))]
        circumstances = {"before": moment, "after": moment, "other_cores": 0.0, "marks": []}
        records += [
            Round(of="speed", round=number, whole=False),
            Sample(
                of="speed", round=number, what="decode", measured={"step_seconds": values}, circumstances=circumstances
            ),
            Round(of="speed", round=number, whole=True),
        ]  # fmt: skip
    memory = {"rss_bytes": [5e6], "anonymous_bytes": [1e6]}
    records += [
        Sample(of="memory", round=0, what="loaded", measured=memory, detail={"repeat": 0, "tokens": 0}),
        Round(of="memory", round=0, whole=True),
    ]
    if energy is not None:
        detail = {"source": "rapl", "of": "", "joules_error": 0.01, "net_joules_error": 0.01 * energy, "refused": None}
        measured = {name: [energy] for name in ("joules", "net_joules", "idle_watts", "mean_watts", "peak_watts")}
        records += [
            Sample(of="energy", round=0, what="decode", measured=measured, detail=detail),
            Round(of="energy", round=0, whole=True),
        ]
    return Profile(Header(**(header | changes)), records)


def test_a_slowdown_is_found_and_what_changed_is_said() -> None:
    found = compare(made_up(), made_up(0.0105, seed=1, bundle_hash="b" * 64, versions={"onnxruntime": "2"}))
    assert found.changed == ("bundle aaaaaaaaaaaa → bbbbbbbbbbbb", "onnxruntime 1 → 2")
    step = next(figure for figure in found.figures if figure.name == "speed step_seconds")
    assert step.difference is not None
    assert step.difference.significant
    assert step.difference.low < 1.05 < step.difference.high
    assert {figure.name for figure in found.figures} >= {"bundle", "memory, loaded, rss", "memory, loaded, anonymous"}
    assert "*" in format_comparison(found)


def test_the_same_again_does_not_differ() -> None:
    found = compare(made_up(), made_up(seed=4))
    assert found.changed == ()
    assert not any(figure.difference and figure.difference.significant for figure in found.figures)
    assert "nothing changed" in format_comparison(found)


def test_energies_of_one_source_are_compared_with_their_errors() -> None:
    found = compare(made_up(energy=0.50), made_up(seed=1, energy=0.60))
    figure = found.figures[-1]
    assert (figure.unit, figure.ratio) == ("J", pytest.approx(1.2))
    assert figure.difference is not None
    assert figure.difference.low == pytest.approx(1.2 * (1 - 1.96 * 0.01 * 2**0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"prompt_lengths": [128]}}, r"prompt_lengths is \[64\] in one and \[128\] in the other"),
        ({"settings": {"threads": 4}}, "one ran on 2 threads, the other on 4"),
        ({"governor": "powersave"}, "another regime of clocks"),
        ({"description": {"emulated": True}}, "one processor is emulated"),
    ],
)
def test_what_answers_another_question_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(made_up(), made_up(**changes))


def test_another_device_has_another_regime_and_is_compared_all_the_same() -> None:
    other = made_up(governor="schedutil", device="ssh:board")
    assert incomparable(made_up(), other) == []
    assert compare(made_up(), other).changed == ("device local → ssh:board",)
