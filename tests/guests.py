"""Emulated processors that are started once: what tests ask of one goes to the process that the first has started.

A start takes seconds, and most tests ask for less. :meth:`Guests.run` is ``edgepress.targets.emulator.run``, but for
that; what a start itself does is asked of the real one in test_emulator.py.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgepress.calls.guest import Answer
from edgepress.calls.host import read_answers, write_calls
from edgepress.errors import CheckFailed
from edgepress.targets.emulator import Call, Installation
from edgepress.targets.emulator.machine import arm_environment, arm_python, check_cpu

_LOOP = """
import sys
from pathlib import Path
from edgepress.calls.guest import main

for line in sys.stdin:
    main(Path(line.rstrip("\\n")))
    print("done", flush=True)
"""


class Guests:
    """The processes, by processor."""

    def __init__(self) -> None:
        self._started: dict[str, subprocess.Popen[str]] = {}
        self._home = tempfile.TemporaryDirectory(prefix="edgepress-guests-")

    def run(
        self, installation: Installation, cpu: str, calls: Sequence[Call], *, timeout: float | None = None
    ) -> list[Answer]:
        """Call functions one after the other on the arm64 processor ``cpu``; ``timeout`` is not kept."""
        del timeout
        check_cpu(installation, cpu)
        guest = self._started.get(cpu) or self._start(installation, cpu)
        assert guest.stdin is not None
        assert guest.stdout is not None
        with tempfile.TemporaryDirectory(prefix="edgepress-emulator-") as name:
            write_calls(Path(name), calls)
            print(name, file=guest.stdin, flush=True)
            if guest.stdout.readline() != "done\n":
                raise CheckFailed(f"the program died on {cpu}")
            return read_answers(Path(name), calls)

    def _start(self, installation: Installation, cpu: str) -> subprocess.Popen[str]:
        environment = arm_environment(installation, Path(self._home.name))
        environment["PYTHONPATH"] += f":{Path(__file__).parent}"  # functions that only tests call
        self._started[cpu] = subprocess.Popen(
            [*arm_python(installation, cpu), "-P", "-c", _LOOP],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self._started[cpu]

    def end(self) -> None:
        """End them all."""
        for guest in self._started.values():
            guest.communicate()
        self._home.cleanup()
