"""Setting the emulator up: what is missing or wrong is said in a line, and nothing half-made stays."""

import hashlib
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from edgepress.errors import InputError
from edgepress.targets.emulator import Installation, emulator_directory, find, install, setup
from edgepress.targets.emulator.apt import Apt, machine_mirror
from edgepress.terminal.progress import silent

NOWHERE = "http://127.0.0.1:9/debian"  # the discard port: refused at once


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs come before the machine's."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path))
    assert emulator_directory() == tmp_path / "emulator"
    monkeypatch.delenv("EDGEPRESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert emulator_directory() == tmp_path / "edgepress" / "emulator"


def test_what_is_not_set_up_is_said_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no emulator in .* for onnxruntime==.*; run: edgepress emulator setup"):
        find(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InputError, match="runs on Linux"):
        setup(tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(install.platform, "machine", lambda: "sparc64")
    with pytest.raises(InputError, match=r"no emulator for sparc64 machines; use one of aarch64, .*x86_64"):
        setup(tmp_path)


def test_without_apt_it_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"apt-get is not there: .*container"):
        setup(tmp_path / "cache")


def test_without_the_archives_keys_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepress.targets.emulator.apt.KEYRING", str(tmp_path / "keyring.gpg"))
    with pytest.raises(InputError, match=r"keyring\.gpg is missing.*apt-get install debian-archive-keyring"):
        setup(tmp_path / "cache", mirror=NOWHERE)


def test_a_machine_without_a_debian_mirror_is_told_to_give_one(programs: Path) -> None:
    program(programs, "apt-get", "echo http://archive.example/ubuntu/; echo http://host.example/debian-security/")
    with pytest.raises(InputError, match=r"names no Debian mirror; give one by --mirror URL"):
        machine_mirror()
    program(programs, "apt-get", "echo http://host.example/debian-security/; echo http://host.example/debian/")
    assert machine_mirror() == "http://host.example/debian/"


def apt_or_skip(directory: Path, mirror: str = NOWHERE) -> Apt:
    try:
        return Apt(directory, mirror, "trixie", ["amd64", "arm64"])
    except InputError as error:
        pytest.skip(str(error))


def test_a_mirror_that_cannot_be_reached_is_named_and_leaves_nothing_half_made(tmp_path: Path, programs: Path) -> None:
    apt_or_skip(tmp_path / "probe")
    own = shutil.which("apt-get")
    program(programs, "apt-get", f'exec {own} -o Acquire::Retries::Delay=false "$@"')  # it waits for seconds else
    with pytest.raises(InputError, match=r"cannot get Debian trixie from http://127\.0\.0\.1:9/debian: .*refused"):
        setup(tmp_path / "cache", mirror=NOWHERE)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {".lock", "downloads"}


STANZA = """Package: x
Architecture: arm64
Version: 1:2.0-1
Filename: pool/main/x/x_2.0-1_arm64.deb
Size: 7
Description: many
 lines: of it
SHA256: {sha256}
"""


@pytest.mark.parametrize("sha256", [hashlib.sha256(b"content").hexdigest(), "0" * 64])
def test_what_was_fetched_is_held_against_the_index(tmp_path: Path, programs: Path, sha256: str) -> None:
    apt = apt_or_skip(tmp_path / "apt")
    program(programs, "apt-cache", f"cat <<'E'\n{STANZA.format(sha256=sha256)}\nE")
    program(programs, "apt-get", "printf content > x_1%3a2.0-1_arm64.deb")
    [package] = apt.find(["x:arm64"])
    assert (package.version, package.size, package.sha256) == ("1:2.0-1", 7, sha256)
    if sha256.startswith("0000"):
        with pytest.raises(InputError, match="has SHA-256 ed7002"):
            apt.download([package], silent)
    else:
        [path] = apt.download([package], silent)
        assert path.read_bytes() == b"content"


def test_a_package_that_is_not_there_is_named(tmp_path: Path, programs: Path) -> None:
    apt = apt_or_skip(tmp_path / "apt")
    program(programs, "apt-cache", f"cat <<'E'\n{STANZA.format(sha256='0' * 64)}\nE")
    with pytest.raises(InputError, match=r"Debian trixie at http://127.* has no package y for arm64"):
        apt.find(["x:arm64", "y:arm64"])


def test_a_failed_download_says_why(tmp_path: Path, programs: Path) -> None:
    apt = apt_or_skip(tmp_path / "apt")
    program(programs, "apt-cache", f"cat <<'E'\n{STANZA.format(sha256='0' * 64)}\nE")
    program(programs, "apt-get", "echo 'E: Failed to fetch x: 404  Not Found' >&2; exit 100")
    with pytest.raises(InputError, match=r"1 packages of Debian trixie from http://127.*: Failed to fetch x: 404"):
        apt.download(apt.find(["x:arm64"]), silent)


def test_a_second_setup_needs_nothing(emulator: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert setup(emulator.directory) == emulator == find(emulator.directory)


def test_it_holds_the_versions_that_run_here(emulator: Installation) -> None:
    import msgspec
    import numpy as np
    import onnxruntime
    import tokenizers

    assert emulator.versions["msgspec"] == msgspec.__version__
    assert emulator.versions["onnxruntime"] == onnxruntime.__version__
    assert emulator.versions["numpy"] == np.__version__
    assert emulator.versions["tokenizers"] == tokenizers.__version__
    assert emulator.versions["machine"] == "aarch64"
    assert int(emulator.versions["qemu"].split(".")[0]) >= 10


def test_a_broken_note_is_named(tmp_path: Path) -> None:
    name = install._ready_name()  # a cache may hold those of other versions too
    (tmp_path / name).write_text("{")
    with pytest.raises(InputError, match=rf"{name} cannot be read"):
        setup(tmp_path)
