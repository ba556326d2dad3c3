"""A program that ends with whoever started it (Linux), even when that is killed: the kernel is asked for it.

    python tied.py PARENT PROGRAM ARGUMENT …

A user-mode guest reads its standard input and ends with it; an emulator of a whole machine reads nothing.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_DIE_WITH_PARENT = 1  # prctl(2), PR_SET_PDEATHSIG; it outlives execve


def tied(command: Sequence[str | Path]) -> list[str | Path]:
    """The command that starts ``command``, whose first word is a path, so that it ends with this thread."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def _become(parent: int, words: list[str]) -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before
        sys.exit(1)
    os.execv(words[0], words)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
