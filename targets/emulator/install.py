"""Setting the emulator up: Debian packages and wheels, fetched, verified and unpacked into the cache, without root.

    ~/.cache/edgepress/emulator/         $EDGEPRESS_CACHE/emulator, or $XDG_CACHE_HOME/edgepress/emulator
      .lock                              held while something is written: one at a time, others wait
      downloads/                         what a broken setup had fetched; removed when it is unpacked
      user-<key>/  host/ root/           the emulator, and the emulated system
      wheels-<key>/                      onnxruntime, numpy, tokenizers and msgspec for it
      system-<key>/  host/ kernel/       the emulator of whole machines, and a kernel; only when asked for
      ready-<key>.json                   versions; written last, after a trial run
      bytecode/  import/                 what the emulated Python compiled; links to this edgepress

Each directory is put in place by one rename, so a killed setup goes on where it was.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from edgepress.calls import Call
from edgepress.calls.guest import describe
from edgepress.disk.cache import cache_folder, locked
from edgepress.disk.files import atomic_directory
from edgepress.errors import InputError
from edgepress.targets.emulator import packages
from edgepress.targets.emulator.apt import Apt, machine_mirror
from edgepress.targets.emulator.apt import Package as DebianPackage
from edgepress.targets.emulator.deb import unpack
from edgepress.targets.emulator.installation import Installation, System
from edgepress.targets.emulator.machine import qemu_version, run
from edgepress.terminal.progress import Progress, silent

_FORM = 1  # of what is written: another one is another key
_DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el", "riscv64": "riscv64", "s390x": "s390x"}
NOTE = "installed.json"


def emulator_directory() -> Path:
    """Where the emulator is kept: ``$EDGEPRESS_CACHE/emulator``, or in the user's cache directory."""
    return cache_folder("emulator")


def find(directory: Path | None = None) -> Installation:
    """The emulator that is set up for this host's versions; InputError with the command that sets it up."""
    directory = emulator_directory() if directory is None else directory
    found = _find(directory)
    if found is None:
        wheels = " ".join(wheel_versions())
        raise InputError(f"no emulator in {directory} for {wheels}; run: edgepress emulator setup")
    return found


def _find(directory: Path) -> Installation | None:
    planned = _planned(directory)
    try:
        note = json.loads((directory / _ready_name()).read_text(encoding="utf-8"))
        versions = {str(name): str(version) for name, version in note["versions"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{directory / _ready_name()} cannot be read ({error}); remove {directory}") from error
    needed = (planned.qemu, planned.x86_qemu, planned.python)
    if not (all(path.is_file() for path in needed) and planned.wheels.is_dir()):
        return None
    return replace(planned, versions=versions)


def setup(
    directory: Path | None = None,
    *,
    mirror: str | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda _line: None,
) -> Installation:
    """Set the emulator up, if it is not; a second call returns at once.

    Args:
        directory: where to keep it; by default :func:`emulator_directory`.
        mirror: URL of a Debian mirror; by default the one that this machine's apt uses.
        progress: makes the bar of the download.
        say: is told each step in a line.

    Raises:
        InputError: something that it needs is missing, or cannot be fetched or verified.
        CheckFailed: the trial run failed.

    """
    directory = emulator_directory() if directory is None else directory
    found = _find(directory)
    if found is not None:
        return found
    with locked(directory):
        found = _find(directory)  # another process may have made it meanwhile
        if found is None:
            found = _make(directory, mirror, progress, say)
    return found


def find_system(directory: Path | None = None) -> System:
    """The emulator of whole machines; InputError with the command that sets it up."""
    directory = emulator_directory() if directory is None else directory
    found = _find_system(directory)
    if found is None:
        raise InputError(f"no emulator of whole machines in {directory}; run: edgepress emulator setup --system")
    return found


def _find_system(directory: Path) -> System | None:
    target = _system_directory(directory)
    if not target.is_dir():
        return None
    try:
        listed = json.loads((target / NOTE).read_text(encoding="utf-8"))["packages"]
        versions = {name.partition(":")[0]: str(entry["version"]) for name, entry in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{target / NOTE} cannot be read ({error}); remove {target}") from error
    kernel = next(name for name in versions if name.startswith("linux-image-"))
    return System(target, {"qemu": versions[packages.SYSTEM_EMULATOR], "kernel": versions[kernel]})


def setup_system(
    directory: Path | None = None,
    *,
    mirror: str | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda _line: None,
) -> System:
    """Set the emulator of whole machines up, if it is not; arguments and errors are those of :func:`setup`."""
    directory = emulator_directory() if directory is None else directory
    found = _find_system(directory)
    if found is not None:
        return found
    with locked(directory):
        found = _find_system(directory)
        if found is None:
            say(f"fetching the emulator of machines and a kernel from Debian {packages.SUITE} (about 55 MB)")
            _make_system(_system_directory(directory), directory / "downloads", mirror, progress)
            found = _find_system(directory)
    assert found is not None
    return found


def _make(directory: Path, mirror: str | None, progress: Progress, say: Callable[[str], None]) -> Installation:
    planned = _planned(directory)
    if not planned.user.exists():
        say(f"fetching the emulator and an arm64 system from Debian {packages.SUITE} (about 85 MB)")
        _make_user(planned.user, directory / "downloads", mirror, progress)
    if not planned.wheels.exists():
        say(f"fetching wheels for arm64: {', '.join(wheel_versions())} (about 40 MB)")
        make_wheels(planned.wheels, "aarch64")
    say("trying it")
    version = qemu_version(planned)
    if tuple(int(part) for part in version.split(".")[:2]) < packages.LEAST_QEMU:
        least = ".".join(map(str, packages.LEAST_QEMU))
        raise InputError(
            f"qemu is {version}, and {least} is the oldest that runs onnxruntime; "
            f"remove {planned.user} and give a --mirror that is up to date"
        )
    (told, _arrays) = run(planned, "cortex-a53", [Call(describe)])[0]
    versions = {"qemu": version, **told}
    note = {"versions": versions}
    partial = directory / f".{_ready_name()}.{os.getpid()}"
    partial.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    partial.replace(directory / _ready_name())
    return replace(planned, versions=versions)


# ---- Debian packages -------------------------------------------------------------------------------------------------


def _make_user(target: Path, downloads: Path, mirror: str | None, progress: Progress) -> None:
    host = host_architecture()
    apt = Apt(downloads, machine_mirror() if mirror is None else mirror, packages.SUITE, _distinct([host, "arm64"]))
    apt.update()
    found = apt.find([f"{packages.USER_EMULATOR}:{host}", *(f"{name}:arm64" for name in packages.ROOT)])
    files = apt.download(found, progress)
    with atomic_directory(target) as work:
        unpack(files[0], work / "host", lambda name: name in packages.USER_EMULATOR_FILES)
        for file in files[1:]:
            unpack(file, work / "root", lambda name: not name.startswith(packages.ROOT_UNUSED))
        for name in ("bin", "lib"):  # Debian's merged /usr, which the package of base files would bring
            link = work / "root" / name
            link.symlink_to(f"usr/{name}")
        write_note(work, apt, found)
    shutil.rmtree(downloads)


def _make_system(target: Path, downloads: Path, mirror: str | None, progress: Progress) -> None:
    host = host_architecture()
    apt = Apt(downloads, machine_mirror() if mirror is None else mirror, packages.SUITE, _distinct([host, "arm64"]))
    apt.update()
    [meta] = apt.find([f"{packages.KERNEL}:arm64"])
    kernel = meta.depends.split()[0]  # linux-image-6.12.107+deb13-cloud-arm64 (= 6.12.107-1)
    names = [f"{name}:{host}" for name in (packages.SYSTEM_EMULATOR, *packages.SYSTEM_LIBRARIES)]
    found = apt.find([*names, f"{kernel}:arm64"])
    *files, kernel_file = apt.download(found, progress)
    with atomic_directory(target) as work:
        for file in files:
            unpack(file, work / "host", lambda name: name == packages.SYSTEM_EMULATOR_FILE or _is_library(name))
        unpack(kernel_file, work / "kernel", lambda name: name.startswith("boot/vmlinuz-"))
        write_note(work, apt, found)
    shutil.rmtree(downloads)


def _is_library(name: str) -> bool:
    path = PurePosixPath(name)
    return len(path.parts) == 4 and name.startswith("usr/lib/") and ".so" in path.name  # usr/lib/TRIPLET/libx.so.1


def host_architecture() -> str:
    """Debian's name of this machine's architecture; InputError where Debian's emulator does not run."""
    if sys.platform != "linux":
        raise InputError(f"the emulator runs on Linux, this is {platform.system()}; use a container or a Linux machine")
    name = _DEBIAN_NAMES.get(platform.machine())
    if name is None:
        raise InputError(
            f"Debian has no emulator for {platform.machine()} machines; use one of {', '.join(sorted(_DEBIAN_NAMES))}"
        )
    return name


def write_note(directory: Path, apt: Apt, found: Iterable[DebianPackage]) -> None:
    """Write down which packages a directory was made of."""
    content = {
        "mirror": apt.mirror,
        "suite": apt.suite,
        "packages": {
            f"{package.name}:{package.architecture}": {"version": package.version, "sha256": package.sha256}
            for package in found
        },
    }
    (directory / NOTE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# ---- wheels ----------------------------------------------------------------------------------------------------------


def make_wheels(target: Path, machine: str) -> None:
    """Fetch this machine's own versions of what a runtime needs, for another ``machine`` (as ``uname -m`` says)."""
    tag = f"cp{packages.PYTHON.replace('.', '')}"
    with atomic_directory(target) as work:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--target", str(work), "--no-deps", "--no-compile", "--only-binary=:all:"]
        command += ["--implementation", "cp", "--python-version", packages.PYTHON]
        command += [word for abi in (tag, "abi3", "none") for word in ("--abi", abi)]
        command += [word for name in packages.WHEEL_PLATFORMS for word in ("--platform", f"{name}_{machine}")]
        result = subprocess.run(
            [*command, *wheel_versions()], capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        if "No module named pip" in result.stderr:
            raise InputError(f"{sys.executable} has no pip, which fetches wheels; run: {sys.executable} -m ensurepip")
        if result.returncode:
            errors = [line.removeprefix("ERROR: ") for line in result.stderr.splitlines() if line.startswith("ERROR")]
            raise InputError(
                f"cannot get wheels for {machine} of {', '.join(wheel_versions())} and Python {packages.PYTHON}: "
                f"{errors[0] if errors else result.stderr.strip()}"
            )


def wheel_versions() -> list[str]:
    """As pip takes them: of the versions that run here."""
    import onnxruntime

    versions = {"onnxruntime": onnxruntime.__version__}  # whatever distribution it came in
    return [f"{name}=={versions.get(name) or importlib.metadata.version(name)}" for name in packages.WHEELS]


# ---- names -----------------------------------------------------------------------------------------------------------


def _planned(directory: Path) -> Installation:
    directory = directory.resolve()  # bytecode is found again by the path of its source
    user = directory / f"user-{_digest([_form(), host_architecture()])}"
    wheels = directory / f"wheels-{_digest([packages.PYTHON, *wheel_versions()])}"
    return Installation(directory, user, wheels, {})


def _system_directory(directory: Path) -> Path:
    parts = (packages.SUITE, packages.SYSTEM_EMULATOR, packages.SYSTEM_LIBRARIES, packages.KERNEL)
    return directory.resolve() / f"system-{_digest([repr((_FORM, *parts)), host_architecture()])}"


def _ready_name() -> str:
    return f"ready-{_digest([_form(), host_architecture(), *wheel_versions()])}.json"


def _form() -> str:
    """What decides which packages are unpacked, and how."""
    parts = (packages.SUITE, packages.PYTHON, packages.USER_EMULATOR, packages.USER_EMULATOR_FILES)
    return repr((_FORM, *parts, packages.ROOT, packages.ROOT_UNUSED))


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
