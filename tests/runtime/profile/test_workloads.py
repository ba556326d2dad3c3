"""Profiles of bundles that are no language models: every pass, what it says, and what such bundles do not have."""

from pathlib import Path

import encoder_decoders
import numpy as np
import pytest
from foreign_models import MODELS, feed_of, save

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime.profile.compare import compare
from edgepress.runtime.profile.memories import growth, memory_by_phase
from edgepress.runtime.profile.page.page import render
from edgepress.runtime.profile.profiling import known_passes, profile
from edgepress.runtime.profile.records import Profile, read_profile
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.summary import format_summary, intervals, operator_shares, step_quantiles, window_rates
from edgepress.runtime.profile.workloads import find_kind
from edgepress.runtime.profile.workloads.workload import Opening

FEW = {"exact_rounds": 1, "turns": 2, "idle_seconds": 0.1, "threads": 1, "prepared": False}
OF_TEXTS = ["memory", "operators", "speed"]
DEFAULT = [name for name, item in known_passes().items() if not item.optional]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workloads")
    file = save(MODELS["tied"](), folder / "tied.onnx")
    export(file, out=folder / "tied", recipe="int4", threads=1)
    export(encoder_decoders.save("bart", folder / "bart"), out=folder / "text", target="x86-cpu", threads=1)
    return folder


@pytest.fixture(scope="module")
def runs(home: Path) -> Profile:
    settings = Settings(rows=(1, 3), sustained_seconds=0.1, **FEW)  # type: ignore[arg-type]
    return profile(home / "tied", out=home / "runs.jsonl", settings=settings)


@pytest.fixture(scope="module")
def texts(home: Path) -> Profile:
    settings = Settings(prompt_lengths=(6,), decode_tokens=5, sustained_seconds=0.1, **FEW)  # type: ignore[arg-type]
    return profile(home / "text", out=home / "texts.jsonl", settings=settings, passes=OF_TEXTS)


def test_every_pass_of_runs_gives_what_it_is_for(runs: Profile) -> None:
    assert runs.passes() == DEFAULT
    assert (runs.header.kind, runs.header.settings["rows"]) == ("graph", [1, 3])
    speed = intervals(runs, "speed")
    assert set(speed) == {"load_seconds", "latency_seconds of 1", "latency_seconds of 3"}
    assert set(intervals(runs, "cold")) == {"libraries_seconds", "load_seconds", "cold_latency_seconds"}
    assert list(memory_by_phase(runs)) == ["before load", "loaded", "ran with 1", "ran with 3", "unloaded"]
    assert sum(operator_shares(runs, "run").values()) == pytest.approx(1)
    quantiles = step_quantiles(runs)
    assert quantiles is not None
    assert quantiles["p50"] == pytest.approx(speed["latency_seconds of 1"].value, rel=3)
    unit, _, rates = window_rates(runs)
    assert (unit, all(rate > 0 for rate in rates)) == ("runs", True)
    said = format_summary(runs)
    assert "examples/s" in said
    assert "tokens/s" not in said


def test_the_page_has_the_pictures_of_runs(runs: Profile) -> None:
    page = render(runs)
    for heading in ("Time of a run", "Memory", "Time by operator"):
        assert f"<h2>{heading}</h2>" in page
    assert "ran with 3" in page
    assert "token" not in page.replace("tokenizers", "")


def test_every_pass_of_sources_and_targets_gives_what_it_is_for(texts: Profile) -> None:
    assert texts.passes() == OF_TEXTS
    assert set(intervals(texts, "speed")) == {"load_seconds", "ttft_seconds at 6", "step_seconds at 6"}
    assert list(memory_by_phase(texts)) == ["before load", "loaded", "encoded at 6", "decoded at 6", "unloaded"]
    assert len(texts.samples("speed", "decode")[0].measured["step_seconds"]) == 5
    assert operator_shares(texts, "encode").keys() != operator_shares(texts, "decode").keys()
    grown = growth(texts)
    assert grown is not None
    assert (grown.shorter, grown.longer) == (1, 6)
    assert grown.states == 2 * 2 * 32 * 4  # keys and values of two layers, as wide as the model, in float32
    assert "Time to first token" in render(texts)


def test_profiles_of_one_kind_are_compared_and_of_two_refused(home: Path, runs: Profile, texts: Profile) -> None:
    names = [figure.name for figure in compare(runs, read_profile(home / "runs.jsonl")).figures]
    assert "speed latency_seconds of 3" in names
    assert "memory, ran with 3, rss" in names
    with pytest.raises(InputError, match="one is of the kind 'graph', the other of 'encoder-decoder'"):
        compare(runs, texts)


def test_given_inputs_are_run_and_told_apart_by_what_they_hold(home: Path, tmp_path: Path) -> None:
    feed = feed_of(MODELS["tied"]())
    np.savez(tmp_path / "a.npz", **feed)
    settings = Settings(inputs=str(tmp_path / "a.npz"), **FEW)  # type: ignore[arg-type]
    found = profile(home / "tied", out=tmp_path / "p.jsonl", settings=settings, passes=["speed"])
    [rows] = found.header.settings["rows"]
    assert rows == len(next(iter(feed.values())))
    np.savez(tmp_path / "a.npz", **{name: array + 1 for name, array in feed.items()})
    with pytest.raises(InputError, match="other settings"):
        profile(home / "tied", out=tmp_path / "p.jsonl", settings=settings, passes=["speed"])


def test_a_turn_begins_anew_where_its_target_is_full(home: Path) -> None:
    kind = find_kind(home / "text")
    work = {"prompt_lengths": [4], "decode_tokens": 4}
    source, _ = kind.open(Opening(str(home / "text"), 1, None, 0, None, False, work))
    source.begin(4)
    assert len(source.steps(100)) == 100
    assert source.held()["tokens"] == 1 + 100 - 63  # of 64 positions the first is the beginning's


@pytest.mark.parametrize(
    ("bundle", "settings", "message"),
    [
        ("tied", {"prompt_lengths": (4,)}, "kind 'graph', which has no prompt lengths"),
        ("tied", {"graph": "model.onnx"}, "has no graph; leave it out, and say what is measured by rows, length"),
        ("text", {"rows": (2,)}, "kind 'encoder-decoder', which has no rows"),
        ("tied", {"rows": (0,)}, "a number of rows is 0"),
        ("tied", {"rows": ()}, "there are no rows"),
        ("tied", {"inputs": "nowhere.npz"}, "nowhere.npz"),
        ("text", {"prompt_lengths": (4,), "decode_tokens": 5000}, "decode fewer"),
        ("text", {"prompt_lengths": (5000,), "decode_tokens": 4}, "a source of 5000 tokens is longer than the"),
    ],
)
def test_what_a_bundle_does_not_have_is_refused_before_anything_is_written(
    home: Path, tmp_path: Path, bundle: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        profile(home / bundle, out=tmp_path / "p.jsonl", settings=Settings(**settings))  # type: ignore[arg-type]
    assert not (tmp_path / "p.jsonl").exists()


def test_passes_of_language_models_are_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "p.jsonl")
    assert main(["profile", str(home / "tied"), "--out", out, "--passes", "native"]) == 2
    assert "the pass native is for bundles of the kind 'language model', not 'graph'" in capsys.readouterr().err
    assert main(["profile", str(home / "tied"), "--out", out, "--fit", str(tmp_path / "here")]) == 2
    assert not list(tmp_path.iterdir())
