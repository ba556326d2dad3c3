"""Unpacking Debian packages: what dpkg unpacks, and nothing outside the directory, whatever is in the file."""

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.targets.emulator.deb import check_sha256, unpack

COMPRESSIONS = ("", "gz", "bz2", "xz")


def tar(entries: list[tarfile.TarInfo | tuple[str, bytes]], compression: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}", format=tarfile.GNU_FORMAT) as archive:  # type: ignore[call-overload]
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size, info.mode = len(entry[1]), 0o644
                archive.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def ar(members: list[tuple[str, bytes]]) -> bytes:
    """By the description in deb(5), apart from the reader: fixed columns, even offsets."""
    parts = [b"!<arch>\n"]
    for name, data in members:
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
        parts.append(data + b"\n" * (len(data) % 2))
    return b"".join(parts)


def deb(entries: list[tarfile.TarInfo | tuple[str, bytes]], compression: str = "xz") -> bytes:
    suffix = f".{compression}" if compression else ""
    control = tar([("./control", b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n")], "gz")
    members = [("debian-binary", b"2.0\n"), ("control.tar.gz", control)]
    return ar([*members, (f"data.tar{suffix}", tar(entries, compression))])


def special(name: str, kind: bytes, linkname: str = "", mode: int = 0o755) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, linkname, mode
    return info


def tree(root: Path) -> dict[str, str | bytes]:
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_bytes()  # noqa: PTH115
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


USUAL: list[tarfile.TarInfo | tuple[str, bytes]] = [
    special("./", tarfile.DIRTYPE),
    special("./usr/", tarfile.DIRTYPE),
    special("./usr/lib/", tarfile.DIRTYPE),
    ("./usr/lib/libx.so.1.2", bytes(range(256)) * 40),
    special("./usr/lib/libx.so.1", tarfile.SYMTYPE, "libx.so.1.2"),
    special("./usr/lib/hard", tarfile.LNKTYPE, "./usr/lib/libx.so.1.2", 0o644),
    ("./usr/bin/x", b"#!/bin/sh\n"),
]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg is the oracle; apt-get install dpkg")
def test_it_unpacks_what_dpkg_does(tmp_path: Path, compression: str) -> None:
    package = tmp_path / "x.deb"
    package.write_bytes(deb(USUAL, compression))
    subprocess.run(["dpkg", "-x", package, tmp_path / "dpkg"], check=True)
    unpack(package, tmp_path / "ours")
    assert tree(tmp_path / "ours") == tree(tmp_path / "dpkg")
    assert len(tree(tmp_path / "ours")) == 4
    for name in ("usr/lib/libx.so.1.2", "usr/bin/x"):
        assert (tmp_path / "ours" / name).stat().st_mode == (tmp_path / "dpkg" / name).stat().st_mode


def test_only_what_is_wanted_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(deb(USUAL))
    assert unpack(tmp_path / "x.deb", tmp_path / "out", lambda name: name == "usr/bin/x") == ["usr/bin/x"]
    assert list(tree(tmp_path / "out")) == ["usr/bin/x"]


def test_absolute_links_are_taken_from_the_directory(tmp_path: Path) -> None:
    entries: list[tarfile.TarInfo | tuple[str, bytes]] = [
        ("./etc/config", b"of the package"),
        special("./usr/lib/config", tarfile.SYMTYPE, "/etc/config"),
        special("./root", tarfile.SYMTYPE, "/"),
    ]
    (tmp_path / "x.deb").write_bytes(deb(entries))
    unpack(tmp_path / "x.deb", tmp_path / "out")
    assert (tmp_path / "out/usr/lib/config").read_bytes() == b"of the package"
    assert (tmp_path / "out/root").resolve() == (tmp_path / "out").resolve()


ESCAPES = {
    "parent": [("../outside", b"x")],
    "deep parent": [("./usr/../../outside", b"x")],
    "link out": [special("./link", tarfile.SYMTYPE, "../outside")],
    "absolute link with parents": [special("./link", tarfile.SYMTYPE, "/../../outside")],
    "through a link": [special("./up", tarfile.SYMTYPE, ".."), ("./up/outside", b"x")],
    "hard link out": [special("./link", tarfile.LNKTYPE, "../outside")],
    "device": [special("./null", tarfile.CHRTYPE)],
    "pipe": [special("./pipe", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("kind", ESCAPES)
def test_what_would_leave_the_directory_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "x.deb").write_bytes(deb(ESCAPES[kind]))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"x\.deb cannot be unpacked"):
        unpack(tmp_path / "x.deb", folder / "out")
    assert not (folder / "outside").exists()
    assert tree(folder / "out") == {}


def test_an_absolute_name_lands_inside(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(deb([("/absolute", b"x")]))
    unpack(tmp_path / "x.deb", tmp_path / "out")
    assert tree(tmp_path / "out") == {"absolute": b"x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an ar archive"),
        (b"PK\x03\x04 and more", "not an ar archive"),
        (ar([("debian-binary", b"2.0\n")]), "no data.tar"),
        (ar([("data.tar.zst", b"x")]), r"data\.tar\.zst in it is of a compression"),
        (ar([("data.tar.xz", b"not xz")]), "cannot be unpacked"),
        (ar([("debian-binary", b"2.0\n")]).replace(b"`\n", b"??"), "header"),
        (b"!<arch>\n" + f"{'x':<48}{'abc':<10}`\n".encode(), "x in it has no size"),
    ],
)
def test_what_is_no_package_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.deb").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.deb.*{message}"):
        unpack(tmp_path / "x.deb", tmp_path / "out")


NAMES = st.text("abc/.", min_size=1, max_size=12).filter(lambda name: not name.endswith("/"))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=5),
    st.sampled_from(COMPRESSIONS),
    st.integers(0, 5000),
    st.integers(0, 255),
)
def test_a_damaged_package_is_refused_or_stays_inside(
    entries: list[tarfile.TarInfo | tuple[str, bytes]], compression: str, position: int, value: int
) -> None:
    content = bytearray(deb(entries, compression))
    content[position % len(content)] = value
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        folder.mkdir()
        package = folder / "x.deb"
        package.write_bytes(content)
        with contextlib.suppress(InputError):
            unpack(package, folder / "out")
        assert {path.name for path in folder.iterdir()} <= {"x.deb", "out"}
        assert list(Path(name).iterdir()) == [folder]
        for path in (folder / "out").rglob("*"):
            assert path.resolve().is_relative_to((folder / "out").resolve())


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(COMPRESSIONS), st.floats(0, 1, exclude_max=True))
def test_a_package_that_was_cut_off_is_refused_or_lost_nothing(compression: str, share: float) -> None:
    content = deb(USUAL, compression)
    with tempfile.TemporaryDirectory() as name:
        package = Path(name) / "x.deb"
        package.write_bytes(content)
        unpack(package, Path(name) / "whole")
        package.write_bytes(content[: int(share * len(content))])
        try:
            unpack(package, Path(name) / "cut")
        except InputError:
            return
        assert tree(Path(name) / "cut") == tree(Path(name) / "whole")


def test_a_file_that_is_not_what_the_index_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(b"content")
    check_sha256(path, hashlib.sha256(b"content").hexdigest())
    with pytest.raises(InputError, match=r"x\.deb has SHA-256 ed7002.*, its index says 0000.*setup again"):
        check_sha256(path, "0" * 64)
