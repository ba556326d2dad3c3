"""llama.cpp's source: that of the ``llama-cpp-python`` which the [bench] extra names, fetched by pip and verified."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from common import WORK

from edgepress.disk.files import atomic_directory
from edgepress.targets.emulator.deb import check_sha256

PACKAGE = "llama-cpp-python==0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
FOLDER = WORK / "llama.cpp-arm"


def source() -> Path:
    """llama.cpp's source, fetched and verified once."""
    target = FOLDER / "source"
    if target.exists():
        return target
    downloads = FOLDER / "downloads"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads]
    run([*command, f"--no-binary={PACKAGE.partition('==')[0]}", PACKAGE])
    [archive] = downloads.glob("*.tar.gz")
    check_sha256(archive, SHA256)
    with atomic_directory(target) as work, tarfile.open(archive) as file:
        inner = f"{file.next().name.split('/')[0]}/vendor/llama.cpp/"  # type: ignore[union-attr] # it is not empty
        for member in file:
            if member.name.startswith(inner):
                member.name = member.name.removeprefix(inner)
                file.extract(member, work, filter="data")
    shutil.rmtree(downloads)
    return target


def run(command: Sequence[str | Path]) -> str:
    """Run a command to its end; git shall not take the checkout that a build lies in for llama.cpp's own."""
    words = list(map(str, command))
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(FOLDER)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout
