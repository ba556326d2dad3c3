"""What carries out calls on a device: its own Python if it has what is needed, else the root that is brought there."""

import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgepress.runtime.machine.devices.common import root, store
from edgepress.runtime.machine.devices.common.errors import RunnerUnusable
from edgepress.runtime.machine.devices.common.link import Link
from edgepress.targets.emulator.roots import Root, find_root

_LEAST_PYTHON = (3, 11)
_MODULES = ("numpy", "onnxruntime", "tokenizers", "msgspec")
_TRYING = 120.0  # seconds: a small board imports onnxruntime from a slow card
_ASK_PYTHON = (
    "import sys; "
    f"assert sys.version_info >= {_LEAST_PYTHON}, 'Python ' + sys.version.split()[0]; "
    f"import {', '.join(_MODULES)}; "
    "print(sys.version.split()[0])"
)


@dataclass(frozen=True)
class Runner:
    """How the guest is started: a command for the device's shell, which the folder of a job follows."""

    command: str
    about: str


def make_runner(link: Link, machine: str) -> Runner:
    """Find or bring what can run there; ``machine`` is what ``uname -m`` says.

    Raises:
        RunnerUnusable: neither its own Python nor ours runs there; says why not.
        DeviceUnusable: what else is wrong, by its name.

    """
    package = _unpacked_package(link)
    why_not = _why_not_own_python(link)
    if not why_not:
        return Runner(f"PYTHONPATH={shlex.quote(package)} python3 -P -m edgepress.calls", "its own Python")
    brought = find_root(machine)
    if brought is None:
        raise RunnerUnusable(
            f"{link.name} is {machine}, and the Python that edgepress can bring is for arm64 and x86-64; its own lacks "
            f"what is needed ({why_not}): install Python {_LEAST_PYTHON[0]}.{_LEAST_PYTHON[1]} there, and "
            f"pip install {' '.join(_MODULES)}"
        )
    archive, digest = root.packed_root(brought)

    def pack() -> Path:
        _probe(link, brought)
        return archive

    folder = shlex.quote(store.unpacked(link, digest, pack))
    environment = f"PYTHONHOME={folder}/usr PYTHONPATH={shlex.quote(package)}:{folder}/{root.WHEELS}"
    loader = f"{folder}/{brought.loader} --library-path {folder}/{brought.libraries}"
    return Runner(
        f"{environment} {loader} {folder}/{brought.python} -s -P -m edgepress.calls",
        f"the Python that edgepress brought, for its own has not what is needed ({why_not})",
    )


def _unpacked_package(link: Link) -> str:
    with tempfile.TemporaryDirectory() as name:
        archive = Path(name) / "edgepress.tar.gz"

        def pack() -> Path:
            root.pack_package(archive)
            return archive

        return store.unpacked(link, root.package_digest(), pack)


def _why_not_own_python(link: Link) -> str:
    """What the device's own Python lacks; "" when it has what is needed."""
    code, said, errors = link.try_to(f"python3 -c {shlex.quote(_ASK_PYTHON)}", timeout=_TRYING)
    if not code:
        return ""
    last = (errors or said).strip().splitlines()[-1:] or ["python3 gave no reason"]
    return "it has no python3" if re.search(r"not found|inaccessible", last[0]) else last[0]


def _probe(link: Link, brought: Root) -> None:
    """Try one tiny program of ours before a hundred megabytes are sent: glibc, which tells its version when run."""
    folder = shlex.quote(f"{link.base}/probe")
    link.ask(f"mkdir -p {folder}", what="making a folder")
    names = (brought.loader, f"{brought.libraries}/libc.so.6")
    try:
        for name in names:
            link.put(brought.system / name, f"{link.base}/probe/{Path(name).name}")
        loader, libc = (f"{folder}/{Path(name).name}" for name in names)
        code, said, errors = link.try_to(
            f"chmod 755 {loader} {libc} && env -u LD_PRELOAD -u LD_LIBRARY_PATH {loader} --library-path {folder} {libc}"
        )
    finally:
        link.try_to(f"rm -rf {folder}")
    if code or "GNU C Library" not in said:
        why = (errors or said).strip().splitlines()[-1:] or [f"exit code {code}"]
        raise RunnerUnusable(
            f"programs that are brought do not run on {link.name} ({why[0]}): is {link.base} on a noexec mount, or its "
            "kernel 32-bit? Where they cannot, a native program built for the device is the other way"
        )
