"""Files written whole or not at all, and hashed without holding them in memory."""

import glob
import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgepress.errors import InputError

if sys.platform != "win32":
    import fcntl

_PARTIAL = ".partial"
_YOUNG = 2.0  # seconds in which a directory that was just made may not be locked yet
_HASH_CHUNK = 1 << 20  # bytes read at a time: bounded memory, few system calls
_MOST_AT_ONCE = 1 << 30  # bytes of one read: Linux gives 0x7ffff000 at most, macOS and Windows take INT_MAX at most


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, reading it in pieces of 1 MiB."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_HASH_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
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
def atomic_directory(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty sibling of ``target`` that becomes ``target`` when the block ends without an error.

    Killed at any moment, the old directory or none is there, never half of a new one: contents are synced, then one
    rename puts them in place. With ``replace`` the old directory is exchanged for the new one and then removed. On an
    error the sibling is removed, and so it is on an exception that a signal's handler raises at any moment.

    Raises:
        InputError: ``target`` exists and ``replace`` is false, or its parent cannot be written.

    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow a link at `target` itself
    if target.is_symlink():
        raise InputError(f"{target} is a symbolic link; name the directory itself")
    if not replace:
        refuse_existing(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    # Named before it is made: a signal's exception may come between any two steps, and there must be a name to remove.
    work, held = _sibling(target, _PARTIAL), None
    try:
        try:
            work.mkdir()
            held = _hold(work)
            work.chmod(0o755)  # whatever the umask is, others can read a shipped bundle
        except OSError as error:
            raise _unwritable(target, error) from error
        yield work
        for path in sorted(work.rglob("*")):
            if path.is_file():
                _sync(path)
        _sync(work)
        _put_in_place(work, target, replace)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        if held is not None:
            os.close(held)


def _sibling(target: Path, suffix: str) -> Path:
    """A name beside ``target`` that nothing has: 64 random bits."""
    return target.parent / f".{target.name}.{secrets.token_hex(8)}{suffix}"


def _unwritable(target: Path, error: OSError) -> InputError:
    return InputError(f"cannot write beside {target}: {error.strerror}; choose a writable output")


@contextmanager
def held_directory(directory: Path, by: str) -> Iterator[None]:
    """Make ``directory`` and keep other processes out of it while the block runs; ``by`` says who may be in there.

    Raises:
        InputError: another process holds it, or it cannot be made.

    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = _hold(directory)
    except OSError as error:
        raise InputError(f"{directory}: {error.strerror or error}; choose a writable output") from error
    if held is None and sys.platform != "win32":
        raise InputError(f"{by} in {directory}; wait for it, or choose another output")
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def _hold(directory: Path) -> int | None:
    """Lock a directory for as long as the returned descriptor is open; None when another process holds it.

    Windows has no such locks: nothing is held there, and what a killed process left stays.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_stale(target: Path) -> None:
    """Remove what a killed process left beside ``target``: partial directories that nobody holds any more."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*{_PARTIAL}"):
        if path.is_symlink() or not path.is_dir():
            continue
        age = time.time() - path.stat().st_mtime
        held = _hold(path) if age > _YOUNG else None
        if held is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)


def _put_in_place(work: Path, target: Path, replace: bool) -> None:
    if not (replace and target.exists()):
        work.rename(target)
        return
    # POSIX has no portable exchange of directories: move the old one aside first. A kill between the two renames
    # leaves the old bundle whole under its aside name and none under `target`.
    aside = _sibling(target, ".old")
    old = aside / target.name
    try:
        aside.mkdir()
        target.rename(old)
        work.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
        raise
