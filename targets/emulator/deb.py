"""Debian packages, unpacked without root and without dpkg.

A .deb is a Unix ``ar`` archive (deb(5)): ``debian-binary``, ``control.tar.*``, then ``data.tar.*`` with the files. What
is unpacked stays inside the directory given: absolute links are made relative to it, as if it were ``/``; whatever
would still lead out of it, absolute names and devices are refused.
"""

import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from edgepress.disk.files import sha256_file
from edgepress.errors import InputError

if not hasattr(tarfile, "data_filter"):  # before Python 3.11.4
    from backports import tarfile  # type: ignore[no-redef]  # the same module, of a later Python

_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60  # name 16, time 12, owner 6, group 6, mode 8, size 10, end mark 2
_END_MARK = b"`\n"
_STREAMS: dict[str, Literal["r|", "r|gz", "r|bz2", "r|xz"]] = {
    "data.tar": "r|",
    "data.tar.gz": "r|gz",
    "data.tar.bz2": "r|bz2",
    "data.tar.xz": "r|xz",
}
_BROKEN = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)


def check_sha256(path: Path, expected: str) -> None:
    """InputError when the file's SHA-256 is not ``expected`` (64 hexadecimal digits)."""
    found = sha256_file(path)
    if found != expected:
        raise InputError(f"{path} has SHA-256 {found}, its index says {expected}; remove it and run the setup again")


def unpack(package: Path, into: Path, wanted: Callable[[str], bool] = lambda _name: True) -> list[str]:
    """Unpack the files of a .deb whose names (such as ``usr/bin/x``) are ``wanted``; return their names.

    Raises:
        InputError: it is not a whole .deb, its compression is not known here, or an entry would leave ``into``.

    """
    into.mkdir(parents=True, exist_ok=True)
    names = []
    try:
        with package.open("rb") as file:
            member, mode = _find_data(file)
            with tarfile.open(fileobj=member, mode=mode, errorlevel=1) as archive:
                for entry in archive:
                    name = posixpath.normpath(entry.name)
                    if name != "." and wanted(name):
                        archive.extract(entry, into, filter=_inside)
                        names.append(name)
    except _BROKEN as error:
        raise InputError(f"{package} cannot be unpacked: {error}; remove it and run the setup again") from error
    return names


def _inside(entry: tarfile.TarInfo, into: str) -> tarfile.TarInfo | None:
    """The ``data`` filter of tarfile, after an absolute link is made relative to the directory unpacked into."""
    if entry.issym() and entry.linkname.startswith("/"):
        folder = posixpath.dirname(posixpath.normpath(entry.name))
        target = posixpath.relpath(entry.linkname.lstrip("/") or ".", folder or ".")
        entry = entry.replace(linkname=target, deep=False)
    return tarfile.data_filter(entry, into)


class _Member(io.RawIOBase):
    """One member of an ar archive, read in order."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; ValueError when the file ends before the member does."""
        count = self._left if size < 0 else min(size, self._left)
        data = self._file.read(count)
        if len(data) < count:
            raise ValueError(f"it ends {self._left - len(data)} bytes early")
        self._left -= count
        return data


def _find_data(file: BinaryIO) -> tuple[_Member, Literal["r|", "r|gz", "r|bz2", "r|xz"]]:
    """The member that holds the files, and how tarfile reads it."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it is not an ar archive")
    while header := file.read(_HEADER_BYTES):
        if len(header) < _HEADER_BYTES or not header.endswith(_END_MARK):
            raise ValueError("a header in it is not one of an ar archive")
        name = header[:16].decode("ascii", "replace").strip().removesuffix("/")
        digits = header[48:58].strip()
        if not digits.isdigit():
            raise ValueError(f"{name} in it has no size")
        if name in _STREAMS:
            return _Member(file, int(digits)), _STREAMS[name]
        if name.startswith("data.tar"):
            raise ValueError(f"{name} in it is of a compression that is not known here ({', '.join(_STREAMS)} are)")
        file.seek(int(digits) + int(digits) % 2, io.SEEK_CUR)  # members start at even offsets
    raise ValueError("there is no data.tar in it")
