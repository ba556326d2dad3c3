"""Files written whole or not at all, and hashed without holding them in memory."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgepress.errors import InputError

_HASH_CHUNK = 1 << 20  # bytes read at a time: bounded memory, few system calls


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, reading it in pieces of 1 MiB."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_HASH_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_directory(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty sibling of ``target`` that becomes ``target`` when the block ends without an error.

    Killed at any moment, the old directory or none is there, never half of a new one: contents are synced, then one
    rename puts them in place. With ``replace`` the old directory is exchanged for the new one and then removed. On an
    error the sibling is removed.

    Raises:
        InputError: ``target`` exists and ``replace`` is false, or its parent cannot be written.

    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow a link at `target` itself
    if target.is_symlink():
        raise InputError(f"{target} is a symbolic link; name the directory itself")
    if not replace and target.exists():
        raise InputError(f"{target} exists already; choose another output or pass --force to replace it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise InputError(f"cannot write beside {target}: {error.strerror}; choose a writable output") from error
    try:
        work.chmod(0o755)  # mkdtemp's 0700 would make a shipped bundle unreadable to others
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


def _put_in_place(work: Path, target: Path, replace: bool) -> None:
    if not (replace and target.exists()):
        work.rename(target)
        return
    # POSIX has no portable exchange of directories: move the old one aside first. A kill between the two renames
    # leaves the old bundle whole under its aside name and none under `target`.
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    target.rename(aside / target.name)
    try:
        work.rename(target)
    except OSError:
        (aside / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
