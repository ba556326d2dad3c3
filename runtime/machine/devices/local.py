"""This machine: functions run in a fresh process of this very Python."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgepress.calls import Answer, Call
from edgepress.calls.host import Report, run_in_folder
from edgepress.runtime.machine.devices.common.here import energy, with_runner
from edgepress.runtime.machine.devices.common.here import runner as runner_facts
from edgepress.runtime.machine.devices.common.in_place import InPlace
from edgepress.runtime.machine.devices.common.protocol import Found, Transport
from edgepress.runtime.machine.devices.describing import linux, record
from edgepress.runtime.machine.devices.describing.description import Description

_READING = 60.0  # seconds: a file of /sys that does not answer is a driver that hangs


class Local(InPlace):
    """This machine."""

    def describe(self, *, runner: bool = False) -> Description:
        """Read by the same script as any other device; where there is no ``sh``, Python tells the little it knows."""
        found = replace(linux.describe(self.name, _record()), energy=energy())
        if found.architecture == "unknown":
            found = replace(found, architecture=platform.machine(), os=platform.platform())
        if not runner:
            return found
        [(told, _)] = self.call([Call(runner_facts)])
        return with_runner(found, told)

    def call(
        self, calls: Sequence[Call], *, report: Report | None = None, timeout: float | None = None
    ) -> list[Answer]:
        """Call functions in a fresh process, which finds modules where this one does."""
        with tempfile.TemporaryDirectory(prefix="edgepress-calls-") as folder:
            return run_in_folder(
                [sys.executable, "-P", "-m", "edgepress.calls"],
                Path(folder),
                calls,
                where="this machine",
                environment=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                report=report,
                timeout=timeout,
            )


def _record() -> dict[str, str]:
    shell = shutil.which("sh")
    if shell is None:
        return {}
    command = [shell, "-c", record.script(f"'{tempfile.gettempdir()}'")]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_READING, check=False)
    except subprocess.TimeoutExpired:
        return {}
    return record.parse(done.stdout.decode("utf-8", "replace"))


def _find() -> list[Found]:
    return [Found("local", "this machine")]


TRANSPORT = Transport("local", "local", "this machine", lambda _address: Local("local"), _find)
