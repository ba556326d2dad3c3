"""A bundle is verified before it is first used: every file is hashed once; after that, stamps tell that none changed.

What was found is kept in the cache, one small file a bundle, by the place where the bundle lies::

    ~/.cache/edgepress/verified/       $EDGEPRESS_CACHE/verified, or $XDG_CACHE_HOME/edgepress/verified
      <place>.json                     the bundle's hash, and the stamp of each of its files when it was hashed

Where that folder cannot be written or is not the user's own, a bundle is hashed at each start.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

from edgepress.bundle.manifest import MANIFEST_NAME, bundle_hash, find_damage, read_manifest, refuse_links
from edgepress.disk.cache import cache_folder, find_other_owner, make_private
from edgepress.disk.stamps import Stamp, is_young, stamp
from edgepress.errors import InputError
from edgepress.terminal.progress import Progress, silent

_KEPT = 200  # notes of about 1 KB; the oldest go
_log = logging.getLogger("edgepress.bundle.verified")

Record = dict[str, Any]
_verified_here: dict[Path, Record] = {}  # by this process: there may be no cache that can be written


def verify_first(
    bundle: Path, progress: Progress = silent, trial: Callable[[Path], None] = lambda _bundle: None
) -> None:
    """Raise InputError unless ``bundle`` is as it was written; it is hashed only when it may have changed since.

    One without a manifest, as onnxruntime-genai's builder makes them, is used with a warning. Its links are refused.

    Args:
        bundle: a directory that an export wrote, or such a builder.
        progress: makes the bar of hashing; :func:`edgepress.terminal.progress.progress` draws it on a terminal.
        trial: further checks before it counts as verified; raises InputError.

    Raises:
        InputError: a file is not what the manifest says, the manifest was changed, or there is a symbolic link that is
            not one of the hub's cache.

    """
    if not os.path.lexists(bundle / MANIFEST_NAME):
        if (bundle / "genai_config.json").is_file():  # else it is no bundle, as whoever reads it will say
            refuse_links(bundle)
            _say_unverified(bundle.resolve())
            trial(bundle)
        return
    refuse_links(bundle)
    note = _note(bundle)
    if _is_known(bundle, note):
        return
    manifest = read_manifest(bundle)
    record: Record = {"bundle": bundle_hash(bundle), "stamps": _stamps(bundle, [*manifest.files, MANIFEST_NAME])}
    moment = time.time_ns()
    problems = find_damage(bundle, manifest, progress)
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise InputError(
            f"{bundle} is not as it was written: {problems[0]}{more}; `edgepress verify {bundle}` names everything, "
            "download or export it again"
        )
    trial(bundle)
    _keep(note, record, moment)


def was_verified(bundle: Path) -> bool:
    """Whether ``bundle`` was verified on this machine, and no file of it has changed since; nothing is hashed."""
    return _is_known(bundle, _note(bundle))


@cache
def _say_unverified(bundle: Path) -> None:
    """Warn once in a process, however often the bundle is opened."""
    _log.warning("%s is unverified: it has no %s that says what must be in it", bundle, MANIFEST_NAME)


def _note(bundle: Path) -> Path:
    place = hashlib.sha256(os.fsencode(bundle.resolve())).hexdigest()
    return cache_folder("verified") / f"{place[:32]}.json"


def _stamps(bundle: Path, names: list[str]) -> dict[str, Stamp]:
    """The stamps of files; without those that are not there, which the hashes will miss."""
    found: dict[str, Stamp] = {}
    for name in names:
        with suppress(OSError, ValueError):  # ValueError: a name with a zero byte
            found[name] = stamp(bundle / name)
    return found


def _is_known(bundle: Path, note: Path) -> bool:
    """Whether the bundle was verified before, and none of its files has another stamp since."""
    try:
        record = _verified_here.get(note) or _read(note)
        stamps: dict[str, Stamp] = record["stamps"]
        return record["bundle"] == bundle_hash(bundle) and _stamps(bundle, list(stamps)) == stamps
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False  # nothing was noted, or what was noted is of no use


def _read(note: Path) -> Record:
    if problem := find_other_owner(note.parent) or find_other_owner(note):
        raise ValueError(problem)
    return cast("Record", json.loads(note.read_text(encoding="utf-8")))


def _keep(note: Path, record: Record, moment: int) -> None:
    """Note what was verified, unless a file is so young that it could change again and keep its stamp."""
    if any(is_young(found, moment) for found in record["stamps"].values()):
        return
    _verified_here[note] = record
    try:
        make_private(note.parent)
        partial = note.with_name(f".{note.name}.{os.getpid()}")
        partial.write_text(json.dumps(record, sort_keys=True) + "\n", encoding="utf-8")
        partial.chmod(0o600)
        partial.replace(note)
        oldest_last = sorted(note.parent.glob("*.json"), key=lambda path: -path.stat().st_mtime_ns)
        for path in oldest_last[_KEPT:]:
            path.unlink(missing_ok=True)
    except (InputError, OSError) as error:
        _log.debug("%s is hashed again at the next start: %s", record["bundle"], error)
