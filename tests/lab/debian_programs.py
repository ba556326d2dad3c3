"""Debian's own sshd and adb, and an arm64 shell, fetched and kept as the emulator is: verified, and without root."""

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

HOST = (
    *("openssh-server", "libc6", "libcrypt1", "libpcre2-8-0", "libselinux1", "libaudit1", "libcap-ng0", "libpam0g"),
    *("zlib1g", "libzstd1", "libssl3t64", "libcom-err2", "libkeyutils1", "libkrb5support0", "libk5crypto3"),
    *("libkrb5-3", "libgssapi-krb5-2", "libwrap0", "libwtmpdb0", "libsqlite3-0"),
    *("adb", "libgcc-s1", "libstdc++6", "android-liblog", "android-libbase", "android-libboringssl", "libmd0"),
    *("libbsd0", "android-libcutils", "android-libziparchive", "libbrotli1", "libxxhash0", "liblz4-1"),
    *("libprotobuf32t64", "libcap2", "libudev1", "libusb-1.0-0"),
)
SHELL = "busybox-static"


def programs(cache: Path) -> Path:
    """A folder with ``host/usr`` (sshd and adb for this machine) and ``arm/usr/bin/busybox``."""
    host = host_architecture()
    key = hashlib.sha256(repr((packages.SUITE, host, HOST, SHELL)).encode()).hexdigest()[:16]
    target = cache / f"tests-{key}"
    if not target.is_dir():
        with locked(cache):
            if not target.is_dir():
                _fetch(target, cache / "downloads-tests", host)
    return target


def _fetch(target: Path, downloads: Path, host: str) -> None:
    apt = Apt(downloads, machine_mirror(), packages.SUITE, list(dict.fromkeys([host, "arm64"])))
    apt.update()
    files = apt.download(apt.find([*(f"{name}:{host}" for name in HOST), f"{SHELL}:arm64"]), silent)
    with atomic_directory(target) as work:
        for file in files[:-1]:
            unpack(file, work / "host", lambda name: not name.startswith("usr/share"))
        unpack(files[-1], work / "arm", lambda name: name == "usr/bin/busybox")
    shutil.rmtree(downloads)
