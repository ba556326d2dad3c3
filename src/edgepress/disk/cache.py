"""Where edgepress keeps what it can make or fetch again: private folders, with one writer at a time."""

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Literal, get_args

from edgepress.errors import InputError

if sys.platform != "win32":
    import fcntl

Cache = Literal["prepared", "verified", "emulator", "references"]
"""Forms of bundles that onnxruntime maps; which were verified; the emulator; checkpoints as float32 bundles."""
CACHES: tuple[Cache, ...] = get_args(Cache)

FORM = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")  # the name of a prepared form
PARTIAL_FORM = re.compile(r"\.[0-9a-f]{16}-[0-9a-f]{16}\..*\.(partial|old)")
LOCK = ".lock"  # in each folder that has one writer at a time
_REMEDY = "set EDGEPRESS_CACHE to a directory of your own"


def cache_folder(name: Cache) -> Path:
    """Where a cache is kept: in ``$EDGEPRESS_CACHE`` (prepared forms directly), or in the user's cache directory.

    Raises:
        InputError: the user has no home directory.

    """
    chosen = os.environ.get("EDGEPRESS_CACHE")
    if not chosen:
        return _user_cache() / name
    return Path(chosen) if name == "prepared" else Path(chosen) / name


def cache_entries(name: Cache) -> list[Path]:
    """What lies in a cache; nothing of others that lies beside it."""
    try:
        found = sorted(cache_folder(name).iterdir())
    except FileNotFoundError:
        return []
    if name == "prepared":
        return [path for path in found if FORM.fullmatch(path.name) or PARTIAL_FORM.fullmatch(path.name)]
    return [path for path in found if path.name != LOCK]


def _user_cache() -> Path:
    """``edgepress`` in the user's cache directory: ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "edgepress"
    except RuntimeError as error:  # no home directory
        raise InputError(f"{error}; set EDGEPRESS_CACHE to a directory that edgepress may fill") from error


def find_other_owner(path: Path) -> str | None:
    """Why another user may have made or changed what is at ``path``; None when only this user or root could.

    A link is not followed. Windows, which has no such owners, gives None.

    Raises:
        OSError: there is nothing at ``path``, or it cannot be looked at.

    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a symbolic link"
    if sys.platform == "win32":
        return None
    if found.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user (number {found.st_uid})"
    if found.st_mode & 0o022:
        return f"{path} may be written by others (mode {stat.S_IMODE(found.st_mode):03o})"
    return None


def refuse_other_owners(folder: Path) -> None:
    """Raise InputError when another user owns ``folder``, a folder of a cache, or may write to it."""
    try:
        problem = find_other_owner(folder.resolve())  # that the user's cache is elsewhere is the user's affair
    except OSError as error:
        raise InputError(f"{folder} cannot be looked at ({error.strerror}); {_REMEDY}") from error
    if problem is not None:
        mend = f"chmod go-w {folder}, once you know what is in it, or " if "written" in problem else ""
        raise InputError(f"{problem}, so that nothing in it can be trusted; {mend}{_REMEDY}")


def make_private(folder: Path) -> None:
    """Make ``folder``, and what is missing of its parents, for this user alone (mode 0700).

    Raises:
        InputError: it cannot be made, or another user owns it or may write to it.

    """
    try:
        missing = list(takewhile(lambda path: not path.is_dir(), (folder, *folder.parents)))
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}); set EDGEPRESS_CACHE to a directory that can"
        ) from error
    refuse_other_owners(folder)


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Let one process write to ``cache``; others wait. Where there is no flock, two may write the same; the last stays.

    Raises:
        InputError: the directory cannot be made or written, or another user owns it or may write to it.

    """
    make_private(cache)
    try:
        file = (cache / LOCK).open("ab")
    except OSError as error:
        raise InputError(
            f"{cache} cannot be written ({error.strerror}); set EDGEPRESS_CACHE to a directory that can"
        ) from error
    with file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)  # let go of when the file is closed, by a kill as well
        yield
