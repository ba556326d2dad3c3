"""Files written whole or not at all, and hashed without holding them in memory."""

import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from edgepress.disk import workspace
from edgepress.disk.exchange import exchange
from edgepress.errors import InputError

_PARTIAL = ".partial"
REPLACED = ".edgepress-replaced"  # the old directory on its way out, beside the new one
_YOUNG = 2.0  # seconds in which a directory that was just made may have no note yet
_HASH_CHUNK = 1 << 20  # bytes read at a time: bounded memory, few system calls
_MOST_AT_ONCE = 1 << 30  # bytes of one read: Linux gives 0x7ffff000 at most, macOS and Windows take INT_MAX at most


def sha256_file(path: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, reading it in pieces of 1 MiB.

    ``advance`` is called with how many bytes each of them has.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_HASH_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            advance(count)
    return digest.hexdigest()


def read_into(path: Path, offset: int, buffer: memoryview) -> int:
    """Fill ``buffer`` with what ``path`` holds from byte ``offset`` on, of any size; return the bytes that were there.

    These are fewer than asked for where the file ends early, and only there: a read that gives less is gone on with.

    Raises:
        OSError: the file cannot be read.

    """
    if not buffer.nbytes:
        return 0  # an empty view cannot be cast
    done, whole = 0, buffer.cast("B")
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while done < whole.nbytes:
            count = file.readinto(whole[done : done + _MOST_AT_ONCE])
            if not count:
                break
            done += count
    return done


def _sync(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return  # directories cannot be opened there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_existing(target: Path) -> None:
    """Raise InputError when ``target`` is there: before work whose result would have no place."""
    if target.exists():
        raise InputError(f"{target} exists already; choose another output or pass --force to replace it")


@contextmanager
def atomic_directory(
    target: Path, *, replace: bool = False, may_remove: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Yield an empty directory that becomes ``target`` when the block ends without an error.

    It lies in a hidden directory of ours beside ``target``. Killed at any moment, the old directory or none is there,
    never half of a new one: contents are synced, then one step puts them in place. With ``replace`` that step exchanges
    the old directory for the new one, which is never missing on the way, and the old one is then removed. Where the
    system cannot exchange (see :func:`edgepress.disk.exchange.exchange`) there are two steps, and what a kill between
    them left is put back by the next call. On an error what was made is removed, and so it is on an exception that a
    signal's handler raises at any moment.

    ``may_remove`` is asked right before the exchange, and raises InputError for a directory that has to stay.

    Raises:
        InputError: ``target`` exists and ``replace`` is false, or may not be removed, or its parent cannot be written.

    """
    target = _absolute(target)
    recover(target, may_remove)
    if not replace:
        refuse_existing(target)
    # Named before it is made: a signal's exception may come between any two steps, and there must be a name to remove.
    place, held = target.parent / f".{target.name}.{secrets.token_hex(8)}{_PARTIAL}", None
    work = place / target.name
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir(0o700)
            held = workspace.hold(place)
            workspace.write_note(place)
            work.mkdir()
            work.chmod(0o755)  # whatever the umask is, others can read a shipped bundle
        except OSError as error:
            raise _unwritable(target, error) from error
        yield work
        for path in sorted(work.rglob("*")):
            if not path.is_symlink():
                _sync(path)
        _sync(work)
        _put_in_place(work, target, replace, may_remove)
        _sync(target.parent)
        workspace.remove_made(place)
    except BaseException:
        _put_back(place, target)
        workspace.remove_made(place)
        raise
    finally:
        if held is not None:
            os.close(held)


@contextmanager
def atomic_file(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield the name of a file to write, which becomes ``target`` when the block ends without an error.

    It lies beside ``target``; on an error it is removed.

    Raises:
        InputError: ``target`` exists and ``replace`` is false, or is no plain file, or its folder cannot be written.

    """
    target = _absolute(target)
    if os.path.lexists(target) and (target.is_symlink() or not target.is_file()):
        raise InputError(f"{target} is no plain file; choose another output")
    if not replace:
        refuse_existing(target)
    work = target.parent / f".{target.name}.{secrets.token_hex(8)}{_PARTIAL}"
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            work.touch(0o644, exist_ok=False)
        except OSError as error:
            raise _unwritable(target, error) from error
        yield work
        _sync(work)
        work.replace(target)
        _sync(target.parent)
    finally:
        work.unlink(missing_ok=True)


def recover(target: Path, may_remove: Callable[[Path], None] | None = None) -> None:
    """Put back and tidy up what a killed process left beside ``target``, where nobody holds it any more.

    What an edgepress before 0.2.0 left of a directory that it replaced (``.NAME.….old``) is put back when ``target`` is
    missing, and removed otherwise when ``may_remove`` lets it be.

    Raises:
        InputError: ``target`` is a link or no name, or the directory in which it lies cannot be written.

    """
    target = _absolute(target)
    if target.is_symlink():
        raise InputError(f"{target} is a symbolic link; name the directory itself")
    try:
        for path in sorted(target.parent.glob(f".{glob.escape(target.name)}.*")):
            if path.is_symlink() or not path.is_dir():
                continue
            suffix = path.name.removeprefix(f".{target.name}.")
            if re.fullmatch(rf"[0-9a-f]{{16}}\{_PARTIAL}", suffix):
                _tidy(path, target)
            elif re.fullmatch(r"[0-9a-f]{16}\.old", suffix):
                _tidy_old(path, target, may_remove)
    except OSError as error:
        raise _unwritable(target, error) from error


def refuse_aside(target: Path) -> None:
    """Raise InputError when ``target`` is missing because a kill in the middle of replacing it left it elsewhere.

    Who only reads says where that is; the next export to that place puts it back (:func:`recover`).
    """
    whole = _absolute(target)
    name = glob.escape(whole.name)
    for pattern in () if os.path.lexists(whole) else (f".{name}.*{_PARTIAL}/{REPLACED}", f".{name}.*.old/{name}"):
        for path in whole.parent.glob(pattern):
            raise InputError(f"{target} is missing: an export that was killed left it in {path}; move it back")


def _absolute(target: Path) -> Path:
    whole = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow a link at `target` itself
    if not whole.name:
        raise InputError(f"{target} is the root of the file system; name a directory in it")
    return whole


def _unwritable(target: Path, error: OSError) -> InputError:
    return InputError(f"cannot write beside {target}: {error.strerror}; choose a writable output")


def _tidy(place: Path, target: Path) -> None:
    """Remove a directory in which something was to be made, unless somebody is at it or it is not ours."""
    if not workspace.is_ours(place):
        if time.time() - place.stat().st_mtime > _YOUNG:
            with suppress(OSError):
                place.rmdir()  # if it is empty: killed before the note was written
        return
    if sys.platform == "win32":  # no locks, so nobody knows who is at it; but two renames take no seconds
        if time.time() - place.stat().st_mtime > _YOUNG:
            _put_back(place, target)
        return
    held = workspace.hold(place)  # one that has a note is held until it is removed, or its process is gone
    if held is not None:
        _put_back(place, target)
        workspace.remove_made(place)
        os.close(held)


def _tidy_old(aside: Path, target: Path, may_remove: Callable[[Path], None] | None) -> None:
    old = aside / target.name
    if [path.name for path in aside.iterdir()] != [target.name] or old.is_symlink():
        return
    if sys.platform != "win32" and aside.stat().st_uid != os.geteuid():
        return
    if not target.exists():
        old.rename(target)
    elif may_remove is not None:
        try:
            may_remove(old)
        except InputError:
            return
        shutil.rmtree(old)
    with suppress(OSError):
        aside.rmdir()


def _put_in_place(work: Path, target: Path, replace: bool, may_remove: Callable[[Path], None] | None) -> None:
    try:
        if not (replace and target.exists()):
            work.rename(target)
            return
        if target.is_symlink():
            raise InputError(f"{target} has become a symbolic link meanwhile; name the directory itself")
        if may_remove is not None:
            may_remove(target)
        if not exchange(work, target):
            target.rename(work.with_name(REPLACED))  # killed here, `_put_back` finds the old one
            work.rename(target)
    except OSError as error:
        raise InputError(f"{target} cannot be put in place: {error.strerror}; choose another output") from error


def _put_back(place: Path, target: Path) -> None:
    """Undo half of an exchange: the old directory lies aside, and nothing is where it was."""
    old = place / REPLACED
    if os.path.lexists(old) and not os.path.lexists(target):  # a name that is too long for the system is not there
        old.rename(target)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write canonical JSON: sorted keys, so that the same content gives the same bytes."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
