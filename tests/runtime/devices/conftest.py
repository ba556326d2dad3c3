"""Devices of the tests: a board behind a real OpenSSH server, both started once."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import arm_machine, device_functions
from lab.debian_programs import programs
from lab.ssh_server import SshServer

from edgepress.errors import InputError
from edgepress.runtime.devices.common import root
from edgepress.targets.emulator import Installation


@pytest.fixture(scope="session")
def lab(emulator: Installation) -> Path:
    """Debian's sshd and adb and an arm64 shell, where this machine can run one by itself."""
    why_not = arm_machine.works(emulator.qemu)
    if why_not:
        pytest.skip(f"no arm64 machine can be emulated here: {why_not}")
    try:
        return programs(emulator.directory)
    except InputError as error:
        if "CI" in os.environ:  # what CI skips, nobody runs
            raise
        pytest.skip(f"Debian's programs cannot be fetched: {error}")


@pytest.fixture(scope="session")
def _ssh_server(lab: Path, emulator: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("there is no ssh on this machine")
    server = SshServer(tmp_path_factory.mktemp("ssh"), lab, emulator.qemu)
    yield server
    server.end()


@pytest.fixture
def ssh_server(_ssh_server: SshServer, emulator: Installation, monkeypatch: pytest.MonkeyPatch) -> SshServer:
    """A server that ``ssh:board`` reaches; what tests call there is packed with edgepress."""
    monkeypatch.setenv("PATH", f"{_ssh_server.path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("edgepress.runtime.devices.common.runner.find", lambda: emulator)
    monkeypatch.setattr(root, "EXTRA_MODULES", {"lab/device_functions.py": Path(device_functions.__file__)})
    return _ssh_server
