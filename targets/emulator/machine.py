"""Python functions called on an emulated processor, arm64 or another x86-64.

qemu's user mode translates the program and passes its system calls on: the emulated Python sees the host's files, and
for arm64 its own system's in front of them. On an emulated x86-64 it is the host's own Python with all that it has
installed; what the system tells of the processor (``/proc/cpuinfo``) is the host's there, and so are processes that it
starts. One start takes seconds, so several calls go into one.
"""

import difflib
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import edgepress
from edgepress.calls.guest import Answer, describe
from edgepress.calls.host import Call, Report, run_in_folder
from edgepress.errors import InputError
from edgepress.targets.emulator.installation import Installation


def run(
    installation: Installation,
    cpu: str,
    calls: Sequence[Call],
    *,
    report: Report | None = None,
    timeout: float | None = None,
) -> list[Answer]:
    """Call functions one after the other in one process on ``cpu``, such as ``cortex-a76``; return their answers.

    ``cpu`` may carry qemu's own switches: ``neoverse-n2,sve=off``. An x86-64 processor (``Haswell-noTSX``) needs an
    x86-64 host. ``report`` is given what functions report before they end; ``timeout`` is in seconds.

    Raises:
        InputError: there is no such processor; or a function raised it there.
        CheckFailed: the program crashed or ran out of time there; or a function raised it there.

    """
    check_cpu(installation, cpu)
    with tempfile.TemporaryDirectory(prefix="edgepress-emulator-") as name:
        folder = Path(name)
        is_x86 = is_x86_cpu(installation, cpu)
        command = x86_python(installation, cpu) if is_x86 else arm_python(installation, cpu)
        environment = _x86_environment(installation, folder) if is_x86 else arm_environment(installation, folder)
        command += ["-P", "-m", "edgepress.calls"]
        return run_in_folder(command, folder, calls, where=cpu, environment=environment, report=report, timeout=timeout)


def arm_python(installation: Installation, cpu: str) -> list[str | Path]:
    """The command that starts the emulated arm64 system's Python; its arguments follow."""
    return [installation.qemu, "-L", installation.root, "-cpu", cpu, installation.python, "-s"]


def x86_python(installation: Installation, cpu: str) -> list[str | Path]:
    """The command that starts this very Python on an emulated x86-64 processor; its arguments follow."""
    return [installation.x86_qemu, "-cpu", cpu, sys.executable]


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


def arm_environment(installation: Installation, folder: Path) -> dict[str, str]:
    """What an emulated arm64 program is given: nothing of the host's, whose library paths it would obey."""
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
