"""Profiles on disk: lines that are only added, torn ones taken off, others' refused."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.runtime.profile.records import (
    SCHEMA,
    Ended,
    Header,
    Profile,
    Round,
    Sample,
    Trouble,
    Writer,
    open_profile,
    read_profile,
)


def header(**changes: object) -> Header:
    fields = {
        "schema": SCHEMA, "started": "2026-01-01T00:00:00+00:00", "bundle": "b", "bundle_hash": "abc",
        "bundle_bytes": 1,
        "device": "local", "description": {}, "versions": {"edgepress": "1"}, "settings": {"turns": 3},
    }  # fmt: skip
    return Header(**(fields | changes))  # type: ignore[arg-type] - fields of any kind are the point


def sample(number: int, value: float = 1.0, **changes: object) -> Sample:
    fields = {"of": "speed", "round": number, "what": "decode", "measured": {"step_seconds": [value]}}
    return Sample(**(fields | changes))  # type: ignore[arg-type]


RECORDS = st.lists(
    st.one_of(
        st.builds(
            Sample, of=st.sampled_from(["speed", "cold"]), round=st.integers(0, 3), what=st.text(max_size=5),
            measured=st.dictionaries(st.text(max_size=5), st.lists(st.floats(allow_nan=False, allow_infinity=False),
            max_size=3), max_size=2),
        ),
        st.builds(Round, of=st.sampled_from(["speed", "cold"]), round=st.integers(0, 3), whole=st.booleans()),
        st.builds(Trouble, of=st.just("cold"), error=st.text(max_size=20)),
    ),
    max_size=8,
)  # fmt: skip


@given(records=RECORDS, torn=st.integers(0, 200))
@settings(max_examples=40)
def test_what_was_written_is_read_and_a_torn_last_line_is_none(
    records: list[Sample | Round | Trouble], torn: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("p") / "p.jsonl"
    writer = Writer(path, Profile(header()), new=True)
    for record in records:
        writer.add(record)
    writer.close()
    assert read_profile(path).records == records
    whole = path.read_bytes()
    last = msgspec.json.encode(sample(9))
    path.write_bytes(whole + last[: torn % len(last)])
    again = open_profile(path, header())
    again.add(sample(8))
    again.close()
    assert read_profile(path).records == [*records, sample(8)]


def test_only_samples_of_whole_rounds_count() -> None:
    profile = Profile(
        header(),
        [
            Round(of="speed", round=0, whole=False), sample(0, 1.0), Round(of="speed", round=0, whole=True),
            Round(of="speed", round=1, whole=False), sample(1, 7.0),  # the link was lost
            Round(of="speed", round=1, whole=False), sample(1, 2.0), sample(1, 3.0, marks=["throttled"]),
            sample(1, 4.0, marks=["busy"]), Round(of="speed", round=1, whole=True),
        ],
    )  # fmt: skip
    assert [entry.measured["step_seconds"][0] for entry in profile.samples("speed")] == [1.0, 2.0, 3.0, 4.0]
    assert [entry.measured["step_seconds"][0] for entry in profile.samples("speed", good=True)] == [1.0, 2.0, 4.0]
    assert profile.rounds("speed") == 2
    assert profile.ended("speed") is None
    assert Profile(header(), [Ended(of="speed", rounds=2, because="x")]).ended("speed") is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundle_hash": "xyz"}, "another bundle"),
        ({"settings": {"turns": 4}}, "turns 3, not 4"),
        ({"versions": {"edgepress": "2"}}, "edgepress '1', not '2'"),
        ({"device": "ssh:board"}, "'local', not 'ssh:board'"),
    ],
)
def test_another_profile_is_not_continued(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    open_profile(tmp_path / "p.jsonl", header()).close()
    with pytest.raises(InputError, match=message):
        open_profile(tmp_path / "p.jsonl", header(**changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no profile"),
        ("{}\n", "line 1: this is no line of a profile"),
        ('{"record":"ended","of":"x","rounds":1,"because":""}\n', "no profile: its first line"),
        (msgspec.json.encode(header(schema=99)).decode() + "\n", "schema 99"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        read_profile(tmp_path / "p.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read_profile(tmp_path / "none.jsonl")
