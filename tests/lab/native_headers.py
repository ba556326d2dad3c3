"""What the native runner is compiled with: onnxruntime's header and a JSON library, Debian's own, fetched and kept."""

import hashlib
import shutil
from pathlib import Path

from edgepress.disk.cache import locked
from edgepress.disk.files import atomic_directory
from edgepress.targets.emulator import packages
from edgepress.targets.emulator.apt import Apt, machine_mirror
from edgepress.targets.emulator.deb import unpack
from edgepress.targets.emulator.install import host_architecture
from edgepress.terminal.progress import silent

PACKAGES = ("libonnxruntime-dev", "nlohmann-json3-dev")


def headers(cache: Path) -> Path:
    """A folder with ``usr/include``."""
    host = host_architecture()
    target = cache / f"headers-{hashlib.sha256(repr((packages.SUITE, host, PACKAGES)).encode()).hexdigest()[:16]}"
    if not target.is_dir():
        with locked(cache):
            if not target.is_dir():
                downloads = cache / "downloads-headers"
                apt = Apt(downloads, machine_mirror(), packages.SUITE, [host])
                apt.update()
                with atomic_directory(target) as work:
                    for file in apt.download(apt.find([f"{name}:{host}" for name in PACKAGES]), silent):
                        unpack(
                            file, work, lambda name: name.startswith("usr/include") and name.endswith((".h", ".hpp"))
                        )
                shutil.rmtree(downloads)
    return target
