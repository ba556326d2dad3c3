"""Figures of a run whose power is known: read beside it, and from a log with a clock of its own."""

from pathlib import Path

import numpy as np
import pytest

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.runtime.machine.metering.pulses import Pulse
from edgepress.runtime.machine.metering.readings import Rail, Trace
from edgepress.runtime.machine.metering.recorder import Recorded
from edgepress.runtime.profile.energies import Part, Run, samples_of
from edgepress.runtime.profile.records import SCHEMA, Header, Profile, Round, Sample, Writer, read_profile
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.summary import energy, format_summary

PULSES = tuple(
    Pulse(500.0 + 0.5 * number, 500.5 + 0.5 * number, load)
    for number, load in enumerate([False, True, True, True, False, False, True, False, False])
)
PREFILLS = tuple((510.0 + 3 * turn, 511.0 + 3 * turn) for turn in range(4))
DECODES = tuple((511.0 + 3 * turn, 513.0 + 3 * turn) for turn in range(4))
RUN = Run(
    parts=(
        Part("prefill", 4 * 100, PREFILLS),
        Part("decode", 4 * 10, DECODES),
        Part("answer", 4, tuple((510.0 + 3 * turn, 513.0 + 3 * turn) for turn in range(4))),
    ),
    idle=((505.0, 510.0), (522.0, 527.0)),
    pulses=PULSES,
)


def watts_at(seconds: np.ndarray) -> np.ndarray:
    """2 W at rest, 6 W in load, 5 W in prefill, 4 W in decode."""
    watts = np.full(len(seconds), 2.0)
    spans = [(p.start, p.end, 6.0) for p in PULSES if p.load]
    spans += [(start, end, 5.0) for start, end in PREFILLS] + [(start, end, 4.0) for start, end in DECODES]
    for start, end, value in spans:
        watts[(seconds >= start) & (seconds < end)] = value
    return watts


def test_joules_of_tokens_and_answers_in_all_and_above_idle() -> None:
    seconds = np.arange(495.0, 530.0, 0.01)
    trace = Trace(Rail("it", "", "power", 0.001, 0.0), seconds, watts_at(seconds))
    told = {sample["what"]: sample for sample in samples_of("made-up", "all", Recorded((trace,), None), RUN)}
    assert told["prefill"]["measured"]["joules"][0] == pytest.approx(5.0 / 100, rel=0.02)
    assert told["decode"]["measured"]["joules"][0] == pytest.approx(4.0 * 2 / 10, rel=0.02)
    assert told["answer"]["measured"]["net_joules"][0] == pytest.approx(3.0 + 2.0 * 2, rel=0.02)
    assert told["answer"]["measured"]["idle_watts"][0] == pytest.approx(2.0, rel=0.01)
    assert told["answer"]["measured"]["peak_watts"] == [5.0]
    assert told["decode"]["detail"]["refused"] is None
    assert len(told["trace"]["measured"]["watts"]) <= 1200


def test_readings_that_cannot_be_used_are_no_figure() -> None:
    with pytest.raises(InputError, match="unplug it"):
        samples_of("battery", "all", Recorded((), "unplug it"), RUN)
    seconds = np.arange(495.0, 530.0, 0.01)
    part = Trace(Rail("it", "", "power", 0.001, 0.0, total=False), seconds, watts_at(seconds))
    with pytest.raises(InputError, match="none of its rails is the whole"):
        samples_of("part", "a part", Recorded((part,), None), RUN)


def written(path: Path, *, with_run: bool) -> Path:
    header = Header(
        schema=SCHEMA, started="", bundle="b", bundle_hash=None, bundle_bytes=1, device="local", description={},
        versions={}, settings=Settings().to_json(),
    )  # fmt: skip
    writer = Writer(path, Profile(header), new=True)
    writer.add(Round(of="energy", round=0, whole=False))
    if with_run:
        writer.add(Sample(of="energy", round=0, **RUN.told()))
    writer.add(Round(of="energy", round=0, whole=True))
    writer.close()
    return path


def test_a_log_is_added_to_the_profile_that_it_belongs_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = np.arange(490.0, 535.0, 0.02)
    rows = [
        f"{1000 * (second - 3000):.3f},{1000 * watts:.2f}" for second, watts in zip(ours, watts_at(ours), strict=True)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["Time (ms),Power (mW)", *rows]))
    path = written(tmp_path / "p.jsonl", with_run=True)
    assert main(["profile", "b", "--out", str(path), "--meter", str(tmp_path / "log.csv")]) == 0
    assert "by external" in capsys.readouterr().out or "external" in format_summary(read_profile(path))
    found = {figure.what: figure for figure in energy(read_profile(path))}
    assert found["answer"].net_joules == pytest.approx(7.0, abs=3 * found["answer"].net_joules_error + 0.1)
    assert found["decode"].joules == pytest.approx(0.8, rel=0.05)


def test_a_log_without_a_run_to_match_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.csv").write_text("time,power\n" + "\n".join(f"{n},1" for n in range(20)))
    path = written(tmp_path / "p.jsonl", with_run=False)
    assert main(["profile", "b", "--out", str(path), "--meter", str(tmp_path / "log.csv")]) == 2
    assert "the profile has no load pulses" in capsys.readouterr().err
    assert read_profile(path).rounds("energy") == 1
