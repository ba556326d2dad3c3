"""Replaces a directory in a child that is killed at the line asked for; a program of its own, for it has to fork fast.

    python killed_lines.py exchange|rename

Each line of standard input is a number and a target; the answer is whether the child came so far as to be killed.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import edgepress.disk.exchange
import edgepress.disk.files
from edgepress.disk import workspace
from edgepress.disk.files import atomic_directory

TRACED = {edgepress.disk.files.__file__, workspace.__file__, edgepress.disk.exchange.__file__, shutil.__file__}
FILES = ("a", "inner/b")
TraceFunction = Callable[[FrameType, str, Any], Any]


def fill(folder: Path, content: str) -> None:
    """Two files, one in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "inner").mkdir()
    for name in FILES:
        (folder / name).write_text(content, encoding="utf-8")


def replace(target: Path) -> None:
    """Put a new directory in the place of ``target``."""
    with atomic_directory(target, replace=True) as work:
        fill(work, "new")


def killed_at(target: Path, line: int) -> bool:
    """Replace ``target`` in a child that is killed at its ``line``-th line; whether it came that far."""
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame: FrameType, event: str, _argument: object) -> TraceFunction | None:
            nonlocal left
            if frame.f_code.co_filename not in TRACED:
                return None
            left -= event == "line"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        replace(target)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main(way: str) -> None:
    """Answer what standard input asks."""
    os.fsync = lambda _: None  # whole directories are asked about here, not what a power cut leaves
    if way == "rename":
        edgepress.disk.files.exchange = lambda *_: False  # type: ignore[attr-defined]
    for asked in sys.stdin:
        line, target = asked.rstrip("\n").split(" ", 1)
        print(killed_at(Path(target), int(line)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
