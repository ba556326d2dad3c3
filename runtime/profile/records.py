"""A profile on disk: one JSON object a line, in the order in which things were measured.

The first line is the :class:`Header`; then come :class:`Sample` lines as they are taken, an :class:`Ended` line when a
pass is done, a :class:`Trouble` line when one could not be. Lines are only ever added, so a profile that was
interrupted is continued: what a pass has, it does not measure again. A torn last line, which a crash can leave, is
taken off.

The form is versioned (:data:`SCHEMA`). Fields are added without a new number and readers skip what they do not know;
none is renamed and no unit changes. Names of quantities end in their unit. docs/devices.md has the list.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from edgepress.errors import InputError

SCHEMA = 1
SPOILING = frozenset({"throttled", "clock", "charging changed", "coarse"})
"""Marks of samples that are never averaged with others; ``busy``, beside other processes, is only counted."""


class Header(msgspec.Struct, frozen=True, tag_field="record", tag="profile", kw_only=True):
    """What was measured, on what, and how; ``started`` in UTC, ``device`` the name that it was reached by.

    ``kind`` is that of the bundle, by its name in :mod:`edgepress.runtime.profile.workloads`.
    """

    schema: int
    started: str
    bundle: str
    bundle_hash: str | None
    bundle_bytes: int
    device: str
    description: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    kind: str = "language model"


class Sample(msgspec.Struct, frozen=True, tag_field="record", tag="sample", kw_only=True):
    """What one turn of a pass gave.

    - ``of``: the pass; ``round`` the process that measured, from 0 in each pass
    - ``what``: which of the pass's turns this is, such as ``prefill``
    - ``measured``: values by quantity; a quantity's name ends in its unit (``step_seconds``, ``rss_bytes``)
    - ``detail``: settings of this turn, such as the prompt's ``length``
    - ``circumstances``: see :class:`edgepress.runtime.profile.circumstances.Circumstances`; None where time does not
      matter
    - ``marks``: why this sample is not to be averaged with the others; none for a good one
    """

    of: str
    round: int
    what: str
    measured: dict[str, list[float]]
    detail: dict[str, Any] = {}
    circumstances: dict[str, Any] | None = None
    marks: list[str] = []


class Round(msgspec.Struct, frozen=True, tag_field="record", tag="round", kw_only=True):
    """A round begins, or is whole. Samples of one that never is (the link was lost in it) count nowhere."""

    of: str
    round: int
    whole: bool


class Ended(msgspec.Struct, frozen=True, tag_field="record", tag="ended", kw_only=True):
    """A pass is done, and why it took no more rounds."""

    of: str
    rounds: int
    because: str


class Trouble(msgspec.Struct, frozen=True, tag_field="record", tag="trouble", kw_only=True):
    """A pass could not be done, or not to its end: the error, as a user sees it."""

    of: str
    error: str


Record = Header | Sample | Round | Ended | Trouble
_DECODER = msgspec.json.Decoder(Record)


class Profile:
    """A profile: its header, and what it has so far."""

    def __init__(self, header: Header, records: Iterable[Record] = ()) -> None:
        self.header = header
        self.records = list(records)

    def rounds(self, of: str) -> int:
        """How many whole rounds a pass has."""
        return sum(isinstance(record, Round) and record.of == of and record.whole for record in self.records)

    def samples(self, of: str, what: str | None = None, *, good: bool = False) -> list[Sample]:
        """Return the samples of a pass's whole rounds, of one kind of turn or of all; ``good`` leaves marked out."""
        found: list[Sample] = []
        begun: list[Sample] = []
        for record in self.records:
            if isinstance(record, Sample) and record.of == of:
                begun.append(record)
            elif isinstance(record, Round) and record.of == of:
                found += begun if record.whole else ()
                begun = []
        return [sample for sample in found if what in (None, sample.what) and not (good and SPOILING & {*sample.marks})]

    def ended(self, of: str) -> Ended | None:
        """The end of a pass; None where it has none yet."""
        return next((record for record in self.records if isinstance(record, Ended) and record.of == of), None)

    def passes(self) -> list[str]:
        """Names of the passes that have anything, in the order of their first lines."""
        return list(dict.fromkeys(record.of for record in self.records if not isinstance(record, Header)))


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        InputError: there is no such file, it is none of ours, or of a schema that is not known here.

    """
    try:
        lines = _whole_lines(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_DECODER.decode(line))
        except msgspec.MsgspecError as error:
            raise InputError(f"{path}, line {number}: this is no line of a profile: {error}") from None
    if not records or not isinstance(records[0], Header):
        raise InputError(f"{path} is no profile: its first line is not one's header; `edgepress profile` writes them")
    if records[0].schema != SCHEMA:
        raise InputError(f"{path} has schema {records[0].schema}; this edgepress reads {SCHEMA}")
    return Profile(records[0], records[1:])


def _whole_lines(path: Path) -> list[bytes]:
    *lines, _torn = path.read_bytes().split(b"\n")
    return [line for line in lines if line.strip()]


class Writer:
    """Appends to a profile, each line on the disk before the next thing is measured."""

    def __init__(self, path: Path, profile: Profile, *, new: bool) -> None:
        self.profile = profile
        self._file = path.open("xb" if new else "r+b")
        if new:
            self._write(profile.header)
        else:
            whole = self._file.read()
            self._file.seek(len(whole) - len(whole.rpartition(b"\n")[2]))
            self._file.truncate()

    def add(self, record: Record) -> None:
        """Append a record."""
        self._write(record)
        self.profile.records.append(record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, record: Record) -> None:
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def open_profile(path: Path, header: Header) -> Writer:
    """Begin a profile at ``path``, or go on with the one that is there if it is of the same bundle, device and
    settings.

    Raises:
        InputError: what is there is another one; the message names what differs.

    """
    if not path.exists():
        return Writer(path, Profile(header), new=True)
    there = read_profile(path)
    if differing := differences(there.header, header):
        raise InputError(
            f"{path} is a profile with {'; '.join(differing)}; give another --out, or remove it to begin anew"
        )
    return Writer(path, there, new=False)


def differences(there: Header, now: Header) -> list[str]:
    """Why two profiles are not one: another bundle, device, set of versions or of settings; none where they are one."""
    found = []
    if there.bundle_hash != now.bundle_hash:
        found.append(
            f"another bundle ({(there.bundle_hash or 'no hash')[:12]}, not {(now.bundle_hash or 'no hash')[:12]})"
        )
    for name in ("device", "versions", "settings"):
        before, after = getattr(there, name), getattr(now, name)
        if before != after:
            found.append(f"other {name} ({_changed(before, after)})")
    return found


def _changed(before: object, after: object) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in (*before, *after) if before.get(key) != after.get(key)]
        return ", ".join(f"{key} {before.get(key)!r}, not {after.get(key)!r}" for key in dict.fromkeys(keys))
    return f"{before!r}, not {after!r}"
