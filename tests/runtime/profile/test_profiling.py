"""A whole profile of a tiny bundle on this machine: every pass, broken off and continued, and what it says."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_models import save

from edgepress.calls import Call
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime.machine.devices import local
from edgepress.runtime.machine.devices.common.errors import LinkLost, RunnerKilled
from edgepress.runtime.profile.memories import growth, leak, memory_by_phase
from edgepress.runtime.profile.profiling import chosen_threads, known_passes, profile
from edgepress.runtime.profile.records import Profile, Sample, read_profile
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.summary import (
    format_summary,
    intervals,
    no_energy,
    operator_shares,
    step_quantiles,
)

SETTINGS = Settings(
    prompt_lengths=(4, 12), decode_tokens=6, turns=2, least_rounds=3, seconds=0.1, sustained_seconds=0.5,
    idle_seconds=0.1, prepared=False,
)  # fmt: skip


DEFAULT = [name for name, item in known_passes().items() if not item.optional]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    export(save("llama", directory / "checkpoint"), out=directory / "bundle", recipe="int4")
    return directory / "bundle"


@pytest.fixture(scope="module")
def whole(bundle: Path) -> Profile:
    return profile(bundle, out=bundle.parent / "whole.jsonl", settings=SETTINGS)


def test_every_pass_gives_what_it_is_for(bundle: Path, whole: Profile) -> None:
    assert whole.passes() == DEFAULT
    assert all(whole.ended(name) is not None for name in DEFAULT)
    speed = intervals(whole, "speed")
    assert set(speed) == {"load_seconds", "ttft_seconds at 4", "ttft_seconds at 12", "step_seconds at 12"}
    assert all(found.rounds >= 3 and found.low <= found.value <= found.high for found in speed.values())
    quantiles = step_quantiles(whole)
    assert quantiles is not None
    assert list(quantiles.values()) == sorted(quantiles.values())
    assert len(whole.samples("speed", "decode")[0].measured["step_seconds"]) == 6
    cold = whole.samples("cold")[0]
    assert cold.measured["cold_ttft_seconds"][0] >= cold.measured["load_seconds"][0]
    assert 0 <= (cold.detail["resident_share"] or 0) <= 1
    phases = memory_by_phase(whole)
    assert list(phases) == ["before load", "loaded", "prefilled at 4", "prefilled at 12", "decoded at 18", "unloaded"]
    assert leak(whole) is not None
    grown = growth(whole)
    assert grown is not None
    assert (grown.shorter, grown.longer) == (12, 18)
    config = json.loads((bundle.parent / "checkpoint/config.json").read_text())
    width = config["num_key_value_heads"] * config["head_dim"]
    assert grown.states == config["num_hidden_layers"] * 2 * width * 4  # keys and values in float32
    assert {"control_group", "available_bytes", "peak_since_phase"} <= {*whole.samples("memory")[0].detail}
    shares = operator_shares(whole, "decode")
    assert sum(shares.values()) == pytest.approx(1.0)
    assert "MatMulNBits" in shares
    assert no_energy(whole) or whole.samples("energy", "decode")
    assert "tokens/s" in format_summary(whole)


def test_a_profile_that_is_done_measures_nothing_again(bundle: Path, whole: Profile) -> None:
    told: list[str] = []
    again = profile(bundle, out=bundle.parent / "whole.jsonl", settings=SETTINGS, told=told.append)
    assert again.records == whole.records
    assert told == [f"{name}: done before" for name in DEFAULT]


def test_a_lost_link_keeps_what_there_is_and_the_next_run_goes_on(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = local.Local.call, []

    def breaks(self: local.Local, asked: Sequence[Call], **options: object) -> object:
        calls.append(asked)
        answers = real(self, asked, **options)  # type: ignore[arg-type] - handed on as they are
        if len(calls) == 3:  # describe, the first round, and now: samples came, the end did not
            raise LinkLost("the link to the board broke")
        return answers

    monkeypatch.setattr(local.Local, "call", breaks)
    out = tmp_path / "p.jsonl"
    with pytest.raises(LinkLost):
        profile(bundle, out=out, settings=SETTINGS, passes=["speed"])
    broken = read_profile(out)
    assert broken.rounds("speed") == 1
    assert any(isinstance(record, Sample) and record.round == 1 for record in broken.records)
    found = profile(bundle, out=out, settings=SETTINGS, passes=["speed"])
    assert found.samples("speed")[: len(broken.samples("speed"))] == broken.samples("speed")
    by_round = [
        len([s for s in found.samples("speed") if s.round == number]) for number in range(found.rounds("speed"))
    ]
    assert set(by_round) == {1 + 2 * 2 + 2}  # load, two turns of two lengths, two of decoding; no sample twice


def test_a_pass_that_dies_is_noted_and_the_next_is_taken(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = local.Local.call

    def killed(self: local.Local, asked: Sequence[Call], **options: object) -> object:
        if asked[0].function.__module__.endswith(".memory"):
            raise RunnerKilled("the runner was killed: out of memory")
        return real(self, asked, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(local.Local, "call", killed)
    found = profile(bundle, out=tmp_path / "p.jsonl", settings=SETTINGS, passes=["memory", "operators"])
    assert found.ended("memory") is None
    assert found.ended("operators") is not None
    assert "out of memory" in format_summary(found)


def test_fewer_threads_are_taken_where_more_are_hardly_faster(whole: Profile) -> None:
    def measured(**milliseconds: float) -> int | None:
        from edgepress.runtime.profile.records import Round

        samples = [
            Sample(
                of="threads",
                round=0,
                what="candidate",
                measured={"step_seconds": [value]},
                detail={"threads": int(name[1:])},
            )
            for name, value in milliseconds.items()
        ]
        return chosen_threads(Profile(whole.header, [*samples, Round(of="threads", round=0, whole=True)]))

    assert measured(n1=10.0, n2=6.0, n4=5.9) == 2
    assert measured(n1=10.0, n2=12.0) == 1
    assert chosen_threads(Profile(whole.header)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_lengths": ()}, "no prompt lengths"),
        ({"precision": 2.0}, "such as 0.02"),
        ({"least_rounds": 2}, "least_rounds is 2"),
        ({"seconds": 0}, "seconds is 0"),
        ({"prompt_lengths": (8,), "context": 10}, "do not fit in the context of 10"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**settings)  # type: ignore[arg-type] - values of any kind are the point


def test_an_unknown_pass_and_a_text_that_is_too_long_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pass 'sun'; known are threads, cold"):
        profile(bundle, out=tmp_path / "p.jsonl", passes=["sun"])
    with pytest.raises(InputError, match="more than the 128"):
        profile(bundle, out=tmp_path / "p.jsonl", settings=Settings(prompt_lengths=(500,)))
    assert not (tmp_path / "p.jsonl").exists()
