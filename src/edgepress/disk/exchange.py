"""Two directories that change places in one step, where the system can do that, and how one is read meanwhile."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edgepress.errors import InputError

T = TypeVar("T")

_TRIES = 5  # an exchange takes an export, and opening a bundle seconds
_HERE = -100  # AT_FDCWD of Linux: paths are absolute, or relative to the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS


def exchange(one: Path, other: Path) -> bool:
    """Let ``one`` and ``other`` change places, so that at no moment either is missing; False where that cannot be done.

    Linux has renameat2(2), macOS renamex_np(2); a C library or a file system may lack it. Then nothing has changed, and
    whoever asked renames in two steps, which also tells of any other error.
    """
    import ctypes  # here, as few calls exchange anything

    first, second = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "linux":
            return bool(ctypes.CDLL(None).renameat2(_HERE, first, _HERE, second, _EXCHANGE) == 0)
        if sys.platform == "darwin":
            return bool(ctypes.CDLL(None).renamex_np(first, second, _EXCHANGE) == 0)
    except (AttributeError, OSError):  # a C library without that name, or a Python without one that can be opened
        return False
    return False


def read_steady(directory: Path, read: Callable[[], T]) -> T:
    """What ``read`` makes of a directory, all of it of one: begun again when another takes its place meanwhile.

    Files are opened by their paths one after the other, so some may be the old one's and some the new one's.

    Raises:
        InputError: it is replaced again and again.
        Exception: what ``read`` raises of a directory that stayed.

    """
    for _ in range(_TRIES):
        before = _identity(directory)
        try:
            found = read()
        except Exception:
            if _identity(directory) == before:
                raise
        else:
            if _identity(directory) == before:
                return found
    raise InputError(f"{directory} was replaced {_TRIES} times while it was being read; wait for who exports there")


def _identity(directory: Path) -> tuple[int, ...] | None:
    """What tells a directory from another in its place; its ctime too, as numbers of removed ones come again."""
    try:
        status = directory.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns
