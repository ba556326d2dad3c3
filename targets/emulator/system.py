"""A whole emulated machine whose clock counts instructions: what a computation costs, the same at every boot.

qemu's ``-icount shift=0`` makes one instruction last one nanosecond of the machine's time. A Linux kernel boots on it
with one core and edgepress as its only program, so that a difference of ``time.perf_counter_ns()`` is the number of
instructions in between: those of the program, and the kernel's few for it. It is no latency: caches, memory and how
many instructions a core issues at once are not in it.
"""

import base64
import binascii
import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edgepress.calls.host import Call, raise_error, write_calls
from edgepress.errors import CheckFailed, InputError
from edgepress.targets.emulator import packages
from edgepress.targets.emulator.init import JOB, MARK
from edgepress.targets.emulator.initramfs import Initramfs
from edgepress.targets.emulator.installation import Installation, System
from edgepress.targets.emulator.machine import check_cpu, is_x86_cpu, own_package
from edgepress.targets.emulator.tied import tied

_MEMORY_MB, _MEMORY_STEP_MB = 2048, 256
_TIMES = 4  # the bytes of what is sent: in the archive, unpacked, read and packed
_SETTINGS = {
    "rdinit": f"/usr/bin/python{packages.PYTHON}",
    "console": "ttyAMA0",
    "loglevel": "1",
    "transparent_hugepage": "never",  # whether one is free differs from run to run, and 512 page faults with it
    "cryptomgr.notests": "1",  # a tenth of the time to boot
    "panic": "-1",  # at once: with -no-reboot the emulator then ends
    # the environment of the first program
    "PYTHONPATH": "/import:/wheels",
    "PYTHONPYCACHEPREFIX": "/bytecode",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
}
_COMMAND_LINE = " ".join(
    [
        *(f"{name}={value}" for name, value in _SETTINGS.items()),
        "quiet nokaslr norandmaps",  # addresses are the same at every boot
        "-- -s -P -m edgepress.targets.emulator.init",
    ]
)
_NOT_THERE = {"exporter", "commands", "__pycache__"}  # folders of edgepress that no runtime uses


def boot(
    installation: Installation,
    system: System,
    cpu: str,
    calls: Sequence[Call],
    files: Mapping[str, Path],
    *,
    timeout: float | None = None,
) -> list[dict[str, Any]]:
    """Call functions on a machine that counts instructions; return what each says (arrays are not brought back).

    ``files`` are what they read: names there (``model``, for ``/model``), and the file or directory here.

    Raises:
        InputError: there is no such processor; or a function raised it there.
        CheckFailed: the machine ended without an answer or ran out of time; or a function raised it there.

    """
    check_cpu(installation, cpu)
    if is_x86_cpu(installation, cpu):
        raise InputError(f"{cpu} is an x86-64 processor; the machines that count instructions are arm64")
    with tempfile.TemporaryDirectory(prefix="edgepress-emulator-") as name:
        folder = Path(name)
        (folder / JOB).mkdir()
        write_calls(folder / JOB, calls)
        write_initramfs(folder / "initramfs", installation, {JOB: folder / JOB, **files})
        command: list[str | Path] = [*system.command, "-machine", "virt,dtb-randomness=off", "-cpu", cpu, "-smp", "1"]
        command += [
            "-m",
            str(_memory_mb(files.values())),
            "-icount",
            "shift=0,sleep=off",
            "-rtc",
            "base=2026-01-01,clock=vm",
        ]
        command += ["-nodefaults", "-display", "none", "-serial", f"file:{folder / 'console'}", "-no-reboot"]
        command += ["-kernel", system.kernel, "-initrd", folder / "initramfs", "-append", _COMMAND_LINE]
        try:
            result = subprocess.run(
                tied(command), capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise CheckFailed(f"the machine with {cpu} did not end within {timeout:g} s") from error
        console = folder / "console"
        said = console.read_text(encoding="utf-8", errors="replace") if console.exists() else ""
        return read_console(said, cpu, result.stderr.decode("utf-8", "replace"))


def _memory_mb(files: Iterable[Path]) -> int:
    """Memory that the machine gets: the same for all that is small."""
    inner = (path for file in files for path in (file.rglob("*") if file.is_dir() else [file]))
    size = sum(path.stat().st_size for path in inner if path.is_file())
    return _MEMORY_MB + _TIMES * size // (_MEMORY_STEP_MB << 20) * _MEMORY_STEP_MB


def read_console(console: str, cpu: str, errors: str) -> list[dict[str, Any]]:
    """What the calls said, from what the machine wrote; raise what one raised. ``errors`` are the emulator's own."""
    for line in console.splitlines():
        if line.startswith(MARK):
            try:
                answers = json.loads(base64.b64decode(line.removeprefix(MARK), validate=True))
            except (ValueError, binascii.Error) as error:
                raise CheckFailed(f"the machine with {cpu} gave half an answer: {error}") from error
            raise_error(answers)
            return [entry["value"] for entry in answers["done"]]
    said = [line for line in (console + errors).splitlines() if line.strip()][-3:]
    raise CheckFailed(f"the machine with {cpu} ended without an answer: {' / '.join(said) or 'it said nothing'}")


def write_initramfs(path: Path, installation: Installation, files: Mapping[str, Path]) -> None:
    """Write what the machine boots with: the arm64 system, the wheels, edgepress, their bytecode, and ``files``."""
    package = own_package(installation)
    places = {"wheels": installation.wheels, "usr": installation.root / "usr"}
    with path.open("wb") as file:
        archive = Initramfs(file)
        for name in ("proc", "sys", "tmp"):
            archive.directory(name)
        archive.character_device("dev/console", 5, 1)
        for name in ("bin", "lib"):
            archive.link(name, f"usr/{name}")
        archive.tree(installation.root / "etc", "etc")
        for name, source in places.items():
            archive.tree(source, name, _is_needed)
        own = (path.name for path in (package / "edgepress").iterdir() if path.is_dir())
        for folder in ("", *sorted(set(own) - _NOT_THERE)):
            source, name = (package / "edgepress" / folder).resolve(), str(PurePosixPath("import/edgepress", folder))
            archive.tree(source, name, _is_module if folder else _is_own_module)
        for name, source in {**places, "import": package}.items():
            compiled = installation.bytecode / source.relative_to("/")
            if compiled.is_dir():
                archive.tree(compiled, f"bytecode/{name}")
        for name, source in files.items():
            if source.is_dir():
                archive.tree(source, name)
            else:
                archive.copy(source, name)
        archive.finish()


def _is_module(name: str) -> bool:
    return name.endswith(".py")


def _is_own_module(name: str) -> bool:
    return name.endswith(".py") and "/" not in name


def _is_needed(name: str) -> bool:
    """Whether a file of the wheels or of the system is used by a runtime; it all has to fit into memory."""
    path = PurePosixPath(name)
    return path.suffix not in packages.UNUSED_SUFFIXES and not packages.UNUSED_FOLDERS & set(path.parts)
