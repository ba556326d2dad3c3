"""Roots: a system and wheels that run on a device without Python, each of one kind of processor.

Of arm64 it is what the emulator has; that of x86-64 is fetched the same way, when it is asked for:

    ~/.cache/edgepress/emulator/x86-root-<key>/  system/ wheels/
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgepress.disk.cache import locked
from edgepress.disk.files import atomic_directory
from edgepress.errors import InputError
from edgepress.targets.emulator import packages
from edgepress.targets.emulator.apt import Apt, machine_mirror
from edgepress.targets.emulator.deb import unpack
from edgepress.targets.emulator.install import emulator_directory, find, make_wheels, wheel_versions, write_note
from edgepress.terminal.progress import Progress, silent

_FORM = 1  # of what is written: another one is another key
_LOADERS = {
    "aarch64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
    "x86_64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
}
_NAMES = {"arm64": "aarch64", "amd64": "x86_64"}  # what some systems call them


@dataclass(frozen=True)
class Root:
    """``system`` is its ``/``, with ``usr`` in it; ``bytecode`` what is compiled already, below its source's path.

    ``cache`` is the directory that it lies in, where what is made of it may lie, too.
    """

    machine: str
    cache: Path
    system: Path
    wheels: Path
    bytecode: Path | None = None

    @property
    def libraries(self) -> str:
        """Where its libraries are, below ``system``."""
        return f"usr/lib/{_LOADERS[self.machine][0]}"

    @property
    def loader(self) -> str:
        """Its dynamic loader, below ``system``."""
        return f"{self.libraries}/{_LOADERS[self.machine][1]}"

    @property
    def python(self) -> str:
        """Its Python, below ``system``."""
        return f"usr/bin/python{packages.PYTHON}"


def find_root(machine: str, directory: Path | None = None) -> Root | None:
    """The root for a ``machine`` as ``uname -m`` says it; None where there can be none.

    Raises:
        InputError: it is not set up; says by which command.

    """
    machine = _NAMES.get(machine, machine)
    if machine not in _LOADERS:
        return None
    directory = (emulator_directory() if directory is None else directory).resolve()
    if machine == "aarch64":
        found = find(directory)
        return Root(machine, directory, found.root, found.wheels, found.bytecode)
    target = _x86_directory(directory)
    if not target.is_dir():
        wheels = " ".join(wheel_versions())
        raise InputError(f"no x86-64 system in {directory} for {wheels}; run: edgepress emulator setup --x86-root")
    return _x86_root(directory)


def setup_x86_root(
    directory: Path | None = None,
    *,
    mirror: str | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda _line: None,
) -> Root:
    """Fetch the x86-64 root, if it is not there; arguments and errors are those of ``setup``."""
    directory = (emulator_directory() if directory is None else directory).resolve()
    if not _x86_directory(directory).is_dir():
        with locked(directory):
            if not _x86_directory(directory).is_dir():
                say(f"fetching an x86-64 system from Debian {packages.SUITE} and wheels (about 70 MB)")
                _fetch(_x86_directory(directory), directory / "downloads", mirror, progress)
    return _x86_root(directory)


def _x86_root(directory: Path) -> Root:
    target = _x86_directory(directory)
    return Root("x86_64", directory, target / "system", target / "wheels")


def _x86_directory(directory: Path) -> Path:
    parts = (_FORM, packages.SUITE, packages.PYTHON, packages.ROOT, packages.X86_ROOT_UNUSED, wheel_versions())
    return directory / f"x86-root-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def _fetch(target: Path, downloads: Path, mirror: str | None, progress: Progress) -> None:
    apt = Apt(downloads, machine_mirror() if mirror is None else mirror, packages.SUITE, ["amd64"])
    apt.update()
    found = apt.find([f"{name}:amd64" for name in packages.ROOT])
    files = apt.download(found, progress)
    with atomic_directory(target) as work:
        for file in files:
            unpack(file, work / "system", lambda name: not name.startswith(packages.X86_ROOT_UNUSED))
        make_wheels(work / "wheels", "x86_64")
        write_note(work, apt, found)
    shutil.rmtree(downloads)
