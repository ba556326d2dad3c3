"""The file system that an emulated machine boots with: a cpio archive, made without root.

The format is ``newc`` of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: per file a header of
13 fields in hexadecimal, its name and its content, each padded to 4 bytes; numbers for devices and owners are ours to
write. Nothing in it depends on the host but the files given, in sorted order.
"""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_TRAILER = "TRAILER!!!"


class Initramfs:
    """Writes files into an archive; directories are made as they are needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._made = {""}
        self._number = 0

    def _write(
        self, name: str, mode: int, content: bytes = b"", time: int = 0, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._number += 1
        encoded = name.encode() + b"\0"
        links = 1
        fields = (self._number, mode, 0, 0, links, time, len(content), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + encoded, content):
            self._file.write(part + b"\0" * (-len(part) % 4))

    def directory(self, name: str) -> None:
        """Make ``name`` and what it lies in."""
        if name not in self._made:
            self._made.add(name)
            self.directory(name.rpartition("/")[0])
            self._write(name, stat.S_IFDIR | 0o755)

    def link(self, name: str, target: str) -> None:
        """Make a symbolic link."""
        self.directory(name.rpartition("/")[0])
        self._write(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int) -> None:
        """Make a character device."""
        self.directory(name.rpartition("/")[0])
        self._write(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def copy(self, source: Path, name: str) -> None:
        """Put a file of the host into the archive, with its time, which bytecode is checked against."""
        self.directory(name.rpartition("/")[0])
        status = source.stat()
        self._write(name, stat.S_IFREG | (status.st_mode & 0o755), source.read_bytes(), int(status.st_mtime))

    def tree(self, source: Path, name: str, wanted: Callable[[str], bool] = lambda _name: True) -> None:
        """Put in all files below ``source`` whose names from there are ``wanted``; links stay links."""
        for path in sorted(source.rglob("*")):
            inner = path.relative_to(source).as_posix()
            if not wanted(inner):
                continue
            if path.is_symlink():
                self.link(f"{name}/{inner}", str(path.readlink()))
            elif path.is_file():
                self.copy(path, f"{name}/{inner}")

    def finish(self) -> None:
        """Write the end mark."""
        self._write(_TRAILER, 0)
