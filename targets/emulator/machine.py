"""Python functions called on an emulated processor, arm64 or another x86-64.

qemu's user mode translates the program and passes its system calls on: the emulated Python sees the host's files, and
for arm64 its own system's in front of them. On an emulated x86-64 it is the host's own Python with all that it has
installed; what the system tells of the processor (``/proc/cpuinfo``) is the host's there, and so are processes that it
starts. One start takes seconds, so several calls go into one.
"""

import difflib
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edgepress
from edgepress.errors import CheckFailed, InputError
from edgepress.targets.emulator.guest import Answer, Arrays, Function, describe, read_arrays, write_arrays
from edgepress.targets.emulator.installation import Installation

_TAIL = 3  # lines of a crash that are shown


@dataclass(frozen=True)
class Call:
    """A function of a module (not a lambda) to call there, with JSON values and arrays."""

    function: Function
    arguments: dict[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


def run(installation: Installation, cpu: str, calls: Sequence[Call], *, timeout: float | None = None) -> list[Answer]:
    """Call functions one after the other in one process on ``cpu``, such as ``cortex-a76``; return their answers.

    ``cpu`` may carry qemu's own switches: ``neoverse-n2,sve=off``. An x86-64 processor (``Haswell-noTSX``) needs an
    x86-64 host. ``timeout`` is in seconds.

    Raises:
        InputError: there is no such processor; or a function raised it there.
        CheckFailed: the program crashed or ran out of time there; or a function raised it there.

    """
    check_cpu(installation, cpu)
    with tempfile.TemporaryDirectory(prefix="edgepress-emulator-") as name:
        folder = Path(name)
        write_calls(folder, calls)
        is_x86 = is_x86_cpu(installation, cpu)
        command = x86_python(installation, cpu) if is_x86 else _arm_python(installation, cpu)
        command += ["-P", "-m", "edgepress.targets.emulator.guest", folder]
        try:
            result = subprocess.run(
                command,
                env=_x86_environment(installation, folder) if is_x86 else _environment(installation, folder),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CheckFailed(f"the program did not end on {cpu} within {timeout:g} s") from error
        if result.returncode:
            raise CheckFailed(f"the program died on {cpu}{_reason(result.returncode, result.stderr)}")
        return read_answers(folder, calls)


def _arm_python(installation: Installation, cpu: str) -> list[str | Path]:
    return [installation.qemu, "-L", installation.root, "-cpu", cpu, installation.python, "-s"]


def x86_python(installation: Installation, cpu: str) -> list[str | Path]:
    """The command that starts this very Python on an emulated x86-64 processor; its arguments follow."""
    return [installation.x86_qemu, "-cpu", cpu, sys.executable]


def write_calls(folder: Path, calls: Sequence[Call]) -> None:
    """Write what the guest is to do."""
    listed = [
        {
            "function": f"{call.function.__module__}:{call.function.__qualname__}",
            "arguments": call.arguments,
            "arrays": write_arrays(folder / f"in-{number}.npz", call.arrays),
        }
        for number, call in enumerate(calls)
    ]
    (folder / "calls.json").write_text(json.dumps(listed), encoding="utf-8")


def read_answers(folder: Path, calls: Sequence[Call]) -> list[Answer]:
    """Read what the guest left; raise what it raised."""
    try:
        answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckFailed("the emulated program ended without an answer") from error
    raise_error(answers)
    done = answers["done"]
    assert len(done) == len(calls)
    return [
        (entry["value"], read_arrays(folder / f"out-{number}.npz", entry["arrays"]))
        for number, entry in enumerate(done)
    ]


def raise_error(answers: dict[str, Any]) -> None:
    """Raise what a function raised there."""
    if "error" in answers:
        raise (CheckFailed if answers["failed"] else InputError)(answers["error"])


def qemu_version(installation: Installation) -> str:
    """Such as ``10.0.13``."""
    found = re.search(r"version (\d+\.\d+(\.\d+)?)", _qemu_says(installation.qemu, "--version"))
    if found is None:
        raise InputError(f"{installation.qemu} does not tell its version; remove {installation.directory}")
    return found[1]


def processors(installation: Installation) -> list[str]:
    """Every processor that ``cpu`` may name: of arm64, and of x86-64 where the host is one."""
    return [*_arm_processors(installation), *(_x86_processors(installation) if _on_x86() else [])]


def _arm_processors(installation: Installation) -> list[str]:
    return re.findall(r"^  (\S+)", _qemu_says(installation.qemu, "-cpu", "help"), re.MULTILINE)


def _x86_processors(installation: Installation) -> list[str]:
    listed, _, _flags = _qemu_says(installation.x86_qemu, "-cpu", "help").partition("Recognized CPUID flags")
    return re.findall(r"^  (\S+)", listed, re.MULTILINE)


def _on_x86() -> bool:
    return platform.machine() in {"x86_64", "AMD64"}


def check_cpu(installation: Installation, cpu: str) -> None:
    """InputError when the emulator has no such processor, or none of that kind on this host."""
    known, name = processors(installation), cpu.partition(",")[0]
    if name in known:
        return
    if not _on_x86() and name in _x86_processors(installation):
        raise InputError(
            f"{name} is an x86-64 processor: it runs the host's own Python and onnxruntime, which needs an x86-64 "
            f"machine, and this is {platform.machine()}"
        )
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "`edgepress emulator cpus` lists those that it has"
    raise InputError(f"the emulator has no processor {name!r}; {hint}")


def is_x86_cpu(installation: Installation, cpu: str) -> bool:
    """Whether ``cpu``, which the emulator has, is an x86-64 processor."""
    return cpu.partition(",")[0] not in _arm_processors(installation)


def versions_on(installation: Installation, cpu: str) -> dict[str, str]:
    """Versions of what runs on ``cpu``: qemu, and the Python and wheels of that system."""
    if not is_x86_cpu(installation, cpu):
        return installation.versions
    (described, _arrays) = describe({}, {})  # the host's own
    return {"qemu": installation.versions["qemu"], **described}


def _qemu_says(qemu: Path, *words: str) -> str:
    try:
        return subprocess.run(
            [qemu, *words], capture_output=True, encoding="utf-8", errors="replace", check=False
        ).stdout
    except OSError as error:
        raise InputError(f"{qemu} cannot be run ({error.strerror}); is the cache on a noexec mount?") from error


def _environment(installation: Installation, folder: Path) -> dict[str, str]:
    """Nothing of the host's: what is set there (library paths, Python's own) would be obeyed here."""
    return {
        "PYTHONPATH": f"{own_package(installation)}:{installation.wheels}",
        "PYTHONPYCACHEPREFIX": str(installation.bytecode),
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "EDGEPRESS_CACHE": str(folder / "cache"),
    }


def _x86_environment(installation: Installation, folder: Path) -> dict[str, str]:
    """The host's, for it is the host's program; but this edgepress, and nothing of the user's is written."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(own_package(installation)), os.environ.get("PYTHONPATH")])),
        "PYTHONDONTWRITEBYTECODE": "1",
        "EDGEPRESS_CACHE": str(folder / "cache"),
    }


def own_package(installation: Installation) -> Path:
    """A directory with a link ``edgepress`` to this package, and nothing else.

    Its parent may be a site-packages full of the host's libraries. The link stays, so that bytecode is found again.
    """
    package = Path(edgepress.__file__).resolve().parent
    directory = installation.directory / "import" / hashlib.sha256(str(package).encode()).hexdigest()[:16]
    directory.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        (directory / "edgepress").symlink_to(package)
    return directory


def _reason(code: int, errors: bytes) -> str:
    name = f" by signal {signal.Signals(-code).name}" if code < 0 else f" with exit code {code}"
    lines = errors.decode("utf-8", "replace").strip().splitlines()[-_TAIL:]
    return ": ".join([name, " / ".join(lines)]) if lines else name
