"""Devices of the tests: a board behind a real OpenSSH server, both started once."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import arm_machine, device_functions
from lab.adb_phone import V2, Adb, AdbPhone
from lab.debian_programs import programs
from lab.ssh_server import SshServer

from edgepress.errors import InputError
from edgepress.runtime.machine.devices.common import root
from edgepress.runtime.machine.devices.common.lock import OURS
from edgepress.targets.emulator import Installation, emulator_directory
from edgepress.targets.emulator.roots import Root, find_root, setup_x86_root

EMULATOR = emulator_directory()  # the user's own, before tests are given another


@pytest.fixture(scope="session")
def _arm_root(emulator: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is brought to arm64 devices, unpacked here: qemu would take long. That of x86-64 is unpacked in earnest."""
    brought = find_root("aarch64", emulator.directory)
    assert brought is not None
    archive, digest = root.packed_root(brought)
    folder = tmp_path_factory.mktemp("brought") / digest
    folder.mkdir()
    subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True)
    yield folder
    shutil.rmtree(folder)


def _bring(arm_root: Path, home: Path) -> None:
    """Have it on a device already, by hard links."""
    if not (home / "unpacked").exists():
        shutil.copytree(arm_root, home / "unpacked" / arm_root.name, copy_function=os.link)
        (home / OURS).touch()


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
def x86_root() -> Root:
    """What is brought to x86-64 devices; this machine is one."""
    if os.uname().machine != "x86_64":
        pytest.skip("x86-64 programs do not run on this machine")
    try:
        return setup_x86_root(EMULATOR)
    except InputError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"an x86-64 system cannot be fetched: {error}")


@pytest.fixture(scope="session")
def _ssh_server(lab: Path, emulator: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("there is no ssh on this machine")
    server = SshServer(tmp_path_factory.mktemp("ssh"), lab, emulator.qemu)
    yield server
    server.end()


@pytest.fixture
def ssh_server(
    _ssh_server: SshServer, _arm_root: Path, emulator: Installation, monkeypatch: pytest.MonkeyPatch
) -> SshServer:
    """A server that ``ssh:board`` reaches; what tests call there is packed with edgepress."""
    monkeypatch.setenv("PATH", f"{_ssh_server.path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("edgepress.targets.emulator.roots.emulator_directory", lambda: emulator.directory)
    monkeypatch.setattr(root, "EXTRA_MODULES", {"lab/device_functions.py": Path(device_functions.__file__)})
    _bring(_arm_root, _ssh_server.home())
    return _ssh_server


@pytest.fixture(scope="session")
def _adb(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adb]:
    adb = Adb(tmp_path_factory.mktemp("adb"), lab)
    yield adb
    adb.end()


@pytest.fixture(scope="session")
def _phone(lab: Path, emulator: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbPhone]:
    phone = AdbPhone(tmp_path_factory.mktemp("phone"), lab, emulator.qemu, V2)
    yield phone
    phone.end()


@pytest.fixture
def adb(_adb: Adb, emulator: Installation, monkeypatch: pytest.MonkeyPatch) -> Adb:
    """Debian's adb as the only one that there is, without a phone."""
    monkeypatch.setenv("PATH", f"{_adb.path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("edgepress.targets.emulator.roots.emulator_directory", lambda: emulator.directory)
    monkeypatch.setattr(root, "EXTRA_MODULES", {"lab/device_functions.py": Path(device_functions.__file__)})
    return _adb


@pytest.fixture
def phone(adb: Adb, _phone: AdbPhone, _arm_root: Path) -> Iterator[AdbPhone]:
    """A phone that is attached."""
    _bring(_arm_root, _phone.home)
    adb.connect(_phone)
    yield _phone
    adb.disconnect(_phone)
