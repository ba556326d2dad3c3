"""Functions that tests call on devices: packed beside edgepress, for nothing of edgepress kills itself or hangs."""

import os
import time
from pathlib import Path
from typing import Any

from edgepress.calls import Answer, Arrays, report
from edgepress.errors import CheckFailed, InputError


def double(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """Report, print, and give twice what it was given."""
    report({"half": arguments["x"]})
    print("not a line of ours")
    return {"x": 2 * arguments["x"]}, {name: 2 * array for name, array in arrays.items()}


def end(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Tell which process this is, then end it by a signal, or never."""
    report({"pid": os.getpid()})
    if arguments["signal"]:
        os.kill(os.getpid(), arguments["signal"])
    time.sleep(600)
    return {}, {}


def look(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """What a process there sees: its machine, what was pushed, and a file that it leaves."""
    pushed = Path(arguments["pushed"])
    Path(arguments["scratch"], "left").write_bytes(b"\0left\n" * 1000)
    found = {path.relative_to(pushed).as_posix(): path.read_text() for path in pushed.rglob("*") if path.is_file()}
    return {"machine": os.uname().machine, "found": found, "environment": dict(os.environ)}, {}


def refuse(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Fail as it is told."""
    raise (CheckFailed if arguments["check"] else InputError)("it was told to")


def write(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Leave a file."""
    Path(arguments["folder"], "samples").write_text("1 2 3")
    return {}, {}
