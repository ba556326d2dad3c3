"""Two directories that change places in one step, where the system and the file system can do that."""

import os
import sys
from pathlib import Path

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
