"""Where edgepress keeps what it can make or fetch again, and one writer at a time."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgepress.errors import InputError

if sys.platform != "win32":
    import fcntl


def user_cache() -> Path:
    """``edgepress`` in the user's cache directory: ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "edgepress"
    except RuntimeError as error:  # no home directory
        raise InputError(f"{error}; set EDGEPRESS_CACHE to a directory that edgepress may fill") from error


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Let one process write to ``cache``; others wait. Where there is no flock, two may write the same; the last stays.

    Raises:
        InputError: the directory cannot be made or written.

    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        file = (cache / ".lock").open("ab")
    except OSError as error:
        raise InputError(
            f"{cache} cannot be written ({error.strerror}); set EDGEPRESS_CACHE to a directory that can"
        ) from error
    with file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)  # let go of when the file is closed, by a kill as well
        yield
