"""A program that is tied ends when whoever started it is killed."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgepress.targets.emulator.tied import tied

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
STARTER = """
import subprocess, sys
from edgepress.targets.emulator.tied import tied
child = subprocess.Popen({command})
print(child.pid, flush=True)
child.wait()
"""
SLEEP = ["/bin/sleep", "60"]
PATIENCE_S = 20


def runs(process: int) -> bool:
    """Whether a process is there and no zombie, and has become what it was to be or is about to."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_sleep(process: int) -> bool:
    return runs(process) and Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"/bin/sleep")


def waited(process: int, *, to_begin: bool) -> bool:
    """Whether it began, or ended, in time."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if is_sleep(process) if to_begin else not runs(process):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("is_tied", [True, False])
def test_it_ends_with_a_killed_parent_where_another_goes_on(is_tied: bool) -> None:
    source = STARTER.format(command=f"tied({SLEEP})" if is_tied else SLEEP)
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        try:
            assert waited(child, to_begin=True)
            starter.kill()
            starter.wait()
            if is_tied:
                assert waited(child, to_begin=False)
            else:
                time.sleep(0.1)
                assert is_sleep(child)
        finally:
            if is_sleep(child):
                subprocess.run(["kill", str(child)], check=True)


def test_its_exit_code_and_words_are_the_programs_own() -> None:
    done = subprocess.run(tied(["/bin/sh", "-c", 'echo "$0"; exit 7', "a b"]), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (7, b"a b\n")


def test_it_does_not_begin_when_its_parent_is_gone() -> None:
    command = [str(word) for word in tied(["/bin/echo", "begun"])]
    command[command.index("-S") + 2] = "1"  # the process that is said to have started it
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
