"""One prepared form on the disk: its note, and whether what is there is what was written, by this user.

The note says which bundle, onnxruntime and processor the form is for, and of each file size, SHA-256 and stamp. Another
user who could write here could make a note that fits: so a form, and each file in it, that others own or may write is
not used. Against damage: small files are hashed at each start, a larger one when its stamp is another; and of a larger
one as many pages as :data:`SECONDS` allow are compared with their checksums.
"""

import hashlib
import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edgepress.bundle.manifest import bundle_hash
from edgepress.disk.cache import find_other_owner
from edgepress.disk.files import sha256_file
from edgepress.disk.stamps import Stamp, find_changed_page, hash_pages, stamp
from edgepress.errors import InputError
from edgepress.schema import Digest, Size, convert, read_object
from edgepress.sessions import saturates

SCHEMA_VERSION = 3  # of what is written: another one is another key, so that old forms age away
MODEL, DATA, CHECK = "model.onnx", "model.onnx.data", "check.onnx"
NOTE = "prepared.json"
_AGAIN = "prepare the bundle again"
PAGES = "pages.crc32"  # of the data file
SECONDS = 0.003  # for looking at pages at each start
_SMALL = 1 << 18  # bytes; hashing them takes a fraction of a millisecond
_READ = {MODEL, DATA, PAGES}  # always; CHECK where onnxruntime packs a weight

Note = dict[str, Any]


# ---- what a form depends on ------------------------------------------------------------------------------------------


def key_of(bundle: Path, model: Path) -> dict[str, str]:
    """What a form of ``model``, a graph of ``bundle``, on this machine depends on."""
    import onnxruntime

    return {
        "bundle": bundle_hash(bundle),
        "graph": model.name,
        "onnxruntime": onnxruntime.__version__,
        "machine": machine(),
        "form": str(SCHEMA_VERSION),
    }


def name_of(key: dict[str, str]) -> str:
    """The name of the form's directory."""
    rest = "|".join(f"{name}={value}" for name, value in sorted(key.items()) if name != "bundle")
    return f"{key['bundle'][:16]}-{hashlib.sha256(rest.encode()).hexdigest()[:16]}"


def machine() -> str:
    """What decides how onnxruntime packs: the architecture and the processor's instruction sets."""
    features: set[str] = set()
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in {"flags", "Features"}:
                features.update(value.split())
                break  # onnxruntime looks at one core, too
    if saturates():  # weights are made uint8 (see edgepress.sessions); an emulated processor shows the host's flags
        features.add("saturating products")
    described = " ".join(sorted(features)) or platform.processor()
    return f"{platform.system()} {platform.machine()} {hashlib.sha256(described.encode()).hexdigest()[:16]}"


class _File(msgspec.Struct, frozen=True):
    size: Size
    sha256: Digest
    stamp: list[int]


class _Parts(msgspec.Struct, frozen=True):
    """The entries of a note that are checked; it has more."""

    key: dict[str, str]
    files: dict[str, _File]
    rows: list[tuple[Size, Size]]
    checks: list[str]


# ---- the note --------------------------------------------------------------------------------------------------------


def describe(work: Path, key: dict[str, str], written: Note) -> None:
    """Write the checksums of the data file's pages, and the note of the form in ``work``: its files and ``written``."""
    whole, pages = hash_pages(work / DATA)
    (work / PAGES).write_bytes(pages)
    files = {}
    for path in sorted(work.iterdir()):
        path.chmod(0o644)  # whatever the umask is: a file that others may write is not used
        digest = whole if path.name == DATA else sha256_file(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": digest, "stamp": stamp(path)}
    content = {"key": key, "files": files, **written}
    _write_note(work, content)


def read_note(directory: Path) -> Note:
    """The note as it is; FileNotFoundError when there is none.

    Raises:
        InputError: it cannot be read, or is not as :func:`describe` writes it.

    """
    path = directory / NOTE
    path.lstat()
    note: Note = read_object(path, _AGAIN)
    convert(note, _Parts, path, _AGAIN)
    return note


def _write_note(directory: Path, content: Note) -> None:
    path = directory / f".{NOTE}.{os.getpid()}"
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    path.chmod(0o644)
    path.replace(directory / NOTE)


def rows_of(directory: Path) -> tuple[tuple[int, int], ...]:
    """Regions of the data file that are read row by row; none of those that are not in it."""
    end = (directory / DATA).stat().st_size
    return tuple((offset, size) for offset, size in read_note(directory)["rows"] if offset + size <= end)


# ---- checks ----------------------------------------------------------------------------------------------------------


class _Unfit(Exception):  # noqa: N818 - a finding, not an error
    """Why a form cannot be used."""


def find_problem(directory: Path, key: dict[str, str]) -> str | None:
    """Why a form cannot be used as it is, None when it can. Takes milliseconds unless a file's stamp has changed."""
    try:
        _check_at_start(directory, key)
    except _Unfit as found:
        return str(found)
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except InputError as error:
        return str(error)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{directory / NOTE} cannot be read ({error})"
    return None


def _check_at_start(directory: Path, key: dict[str, str]) -> None:
    _refuse_other_owner(directory)
    _refuse_other_owner(directory / NOTE)
    note = read_note(directory)
    if note["key"] != key:
        raise _Unfit(f"{directory}: made for {note['key']}")
    if not {"checks", "rows"} <= note.keys() or not _READ <= note["files"].keys() <= {*_READ, CHECK}:
        raise _Unfit(f"{directory / NOTE}: incomplete")
    moved = False  # a copy of the cache: same content, other stamps
    for name, entry in note["files"].items():
        now = _check_file(directory / name, entry)
        moved |= now != entry["stamp"]
        entry["stamp"] = now
    place = find_changed_page(directory / DATA, (directory / PAGES).read_bytes(), SECONDS)
    if place is not None:
        raise _Unfit(f"{directory / DATA}: content changed at byte {place}")
    if moved:
        with suppress(OSError):
            _write_note(directory, note)


def _check_file(path: Path, entry: Note) -> Stamp:
    """Return the file's stamp as it is now."""
    _refuse_other_owner(path)
    now = stamp(path)
    if now[0] != entry["size"]:
        raise _Unfit(f"{path}: {now[0]} bytes, should be {entry['size']}")
    is_small = now[0] <= _SMALL or path.suffix == ".onnx"
    if (is_small or now != entry["stamp"]) and sha256_file(path) != entry["sha256"]:
        raise _Unfit(f"{path}: content changed")
    return now


def _refuse_other_owner(path: Path) -> None:
    if problem := find_other_owner(path):
        raise _Unfit(problem)


def check(directory: Path) -> list[str]:
    """Recompute every hash of a form; return what differs, one line a file. Empty: all as written."""
    try:
        note = read_note(directory)
        files = [(name, directory / name, entry) for name, entry in sorted(note["files"].items())]
        return [
            f"{path}: content changed; prepare the bundle again"
            for name, path, entry in files
            if not path.is_file() or path.stat().st_size != entry["size"] or sha256_file(path) != entry["sha256"]
        ]
    except InputError as error:
        return [str(error)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{directory / NOTE} cannot be read ({error}); prepare the bundle again"]


def find_differences(directory: Path, work: Path, written: Note) -> list[str]:
    """What a form has other than the one that was just written to ``work``; an empty list when nothing."""
    problems = check(directory)
    if problems:
        return problems
    note, again = read_note(directory), json.loads(json.dumps(written))
    problems = [
        f"{directory / NOTE}: {name} is not what the bundle gives" for name in again if note[name] != again[name]
    ]
    for path in sorted(work.iterdir()):
        if note["files"].get(path.name, {}).get("sha256") != sha256_file(path):
            problems.append(f"{directory / path.name}: not what the bundle gives")
    return problems
