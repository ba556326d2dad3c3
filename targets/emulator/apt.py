"""apt, pointed at a directory of ours: it needs no root, and nothing of the machine's own apt is touched."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepress.errors import InputError
from edgepress.targets.emulator.deb import check_sha256
from edgepress.targets.emulator.packages import KEYRING
from edgepress.terminal.progress import Progress

_POLL = 0.05  # seconds between looks at how much has come


@dataclass(frozen=True)
class Package:
    """One package as the signed index describes it."""

    name: str
    architecture: str
    version: str
    size: int
    sha256: str
    depends: str = ""


def machine_mirror() -> str:
    """The Debian mirror that this machine's own apt uses; InputError when it has none."""
    targets = _run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"], dict(os.environ)
    ).splitlines()
    mirrors = [uri for uri in targets if uri.rstrip("/").endswith("/debian") and "://" in uri]
    if not mirrors:
        raise InputError(
            "the apt of this machine names no Debian mirror; give one by --mirror URL (www.debian.org/mirror/list)"
        )
    return mirrors[0]


class Apt:
    """An apt of its own in ``directory``, which keeps what a broken download left, for one suite of one mirror."""

    def __init__(self, directory: Path, mirror: str, suite: str, architectures: Sequence[str]) -> None:
        if not Path(KEYRING).exists():
            raise InputError(
                f"{KEYRING} is missing, so packages cannot be verified; apt-get install debian-archive-keyring"
            )
        directory = directory.resolve()
        self.mirror, self.suite = mirror, suite
        self.packages = directory / "packages"
        for folder in ("lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "packages"):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        (directory / "suite.sources").write_text(
            f"Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n"
            f"Architectures: {' '.join(architectures)}\nSigned-By: {KEYRING}\n",
            encoding="utf-8",
        )
        settings = {
            "Dir": f"{directory}/",
            "Dir::State": directory,
            "Dir::State::status": directory / "status",
            "Dir::Cache": directory / "cache",
            "Dir::Etc": directory / "etc",
            "Dir::Etc::sourcelist": directory / "suite.sources",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::parts": directory / "etc/apt.conf.d",
            "Dir::Etc::preferencesparts": directory / "etc/preferences.d",
            "APT::Architecture": architectures[0],
            "Acquire::Languages": "none",
            "Acquire::GzipIndexes": "true",
            "Acquire::Retries": "3",
            "APT::Update::Error-Mode": "any",
            "APT::Sandbox::User": "root",  # who would otherwise download as _apt, which may not write here
        }
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        lines.append("APT::Architectures { " + " ".join(f'"{name}";' for name in architectures) + " };")
        config = directory / "apt.conf"
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._environment = {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}

    def update(self) -> None:
        """Fetch the indexes, whose signature apt checks."""
        _run(["apt-get", "update", "-qq"], self._environment, f"Debian {self.suite} from {self.mirror}")

    def find(self, names: Sequence[str]) -> list[Package]:
        """Look packages (``name:architecture``) up in the index; InputError names the first that is not there."""
        shown = _run(["apt-cache", "show", "--no-all-versions", *names], self._environment, ", ".join(names))
        found: dict[tuple[str, str], dict[str, str]] = {}
        for stanza in shown.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
            if fields:
                found[fields["Package"], fields["Architecture"]] = fields
        result = []
        for word in names:
            name, _, architecture = word.partition(":")
            entry = found.get((name, architecture)) or found.get((name, "all"))
            if entry is None:
                raise InputError(f"Debian {self.suite} at {self.mirror} has no package {name} for {architecture}")
            size, depends = int(entry["Size"]), entry.get("Depends", "")
            result.append(Package(name, entry["Architecture"], entry["Version"], size, entry["SHA256"], depends))
        return result

    def download(self, packages: Sequence[Package], progress: Progress) -> list[Path]:
        """Fetch packages and check each against the index; what is there already is not fetched again."""
        words = [f"{package.name}:{package.architecture}" for package in packages]
        with (
            progress(sum(package.size for package in packages), "Debian packages", "B") as advance,
            tempfile.TemporaryFile("w+") as errors,
        ):
            process = subprocess.Popen(
                ["apt-get", "download", "-qq", *words],
                cwd=self.packages,
                env=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            try:
                seen = 0
                while process.poll() is None:
                    time.sleep(_POLL)
                    size = sum(path.stat().st_size for path in self.packages.glob("*.deb") if path.exists())
                    advance(size - seen)
                    seen = size
            finally:
                process.kill()
                process.wait()
            if process.returncode:
                errors.seek(0)
                raise _failure(f"{len(words)} packages of Debian {self.suite} from {self.mirror}", errors.read())
        paths = [self.packages / _file_name(package) for package in packages]
        for package, path in zip(packages, paths, strict=True):
            check_sha256(path, package.sha256)
        return paths


def _file_name(package: Package) -> str:
    """As apt names a downloaded file: the epoch's colon is escaped."""
    return f"{package.name}_{package.version.replace(':', '%3a')}_{package.architecture}.deb"


def _run(command: list[str], environment: dict[str, str], what: str = "") -> str:
    if shutil.which(command[0]) is None:
        raise InputError(
            f"{command[0]} is not there: the emulator is made of Debian packages, which apt verifies and fetches. "
            "Any Debian or Ubuntu has it; elsewhere run in a container of one"
        )
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", env=environment, check=False
    )
    if result.returncode:
        raise _failure(what or " ".join(command), result.stderr)
    return result.stdout


def _failure(what: str, errors: str) -> InputError:
    said = [line.split(": ", 1)[-1] for line in errors.splitlines() if line.startswith(("E: ", "W: "))]
    return InputError(f"cannot get {what}: {said[0] if said else errors.strip() or 'apt gave no reason'}")
