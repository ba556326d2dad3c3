"""Directories appear whole or not at all."""

import contextlib
import hashlib
import io
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgepress.disk.exchange
import edgepress.disk.files
from edgepress.disk import workspace
from edgepress.disk.files import atomic_directory, read_into, sha256_file
from edgepress.errors import InputError

TRACED = {edgepress.disk.files.__file__, workspace.__file__, edgepress.disk.exchange.__file__, contextlib.__file__}
TraceFunction = Callable[[FrameType, str, Any], Any]


@given(content=st.binary(max_size=3 << 20))
def test_sha256_is_that_of_the_whole_content(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("hash") / "file"
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()


@given(content=st.binary(max_size=300), offset=st.integers(0, 300), count=st.integers(0, 300), most=st.integers(1, 64))
def test_a_read_goes_on_where_the_system_gives_less_than_was_asked(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, offset: int, count: int, most: int
) -> None:
    path = tmp_path_factory.mktemp("short") / "file"
    path.write_bytes(content)
    asked: list[int] = []

    class Short(io.FileIO):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            asked.append(len(buffer))
            return super().readinto(buffer[: most // 2 + 1])

    buffer = bytearray(b"\xff" * count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edgepress.disk.files, "_MOST_AT_ONCE", most)
        patch.setattr(Path, "open", lambda self, *_, **__: Short(self))
        done = read_into(path, offset, memoryview(buffer))
    expected = content[offset : offset + count]
    assert done == len(expected)
    assert buffer == expected + b"\xff" * (count - done)
    assert max(asked, default=0) <= most


def test_the_directory_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with atomic_directory(target) as work:
        (work / "file").write_bytes(b"1")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["file"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_contents_are_on_the_disk_before_they_are_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, before, after = tmp_path / "out", set[int](), set[int]()

    def note(descriptor: int) -> None:
        (after if target.exists() else before).add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", note)
    with atomic_directory(target) as work:
        (work / "folder").mkdir()
        for name in ("file", "folder/file"):
            (work / name).write_bytes(b"1")
    assert {path.stat().st_ino for path in (target, *target.rglob("*"))} <= before
    assert tmp_path.stat().st_ino in after


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail_inside() -> None:
        with atomic_directory(tmp_path / "out") as work:
            (work / "file").write_bytes(b"1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_refused_unless_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(InputError, match="--force"), atomic_directory(target):
        pytest.fail("the block must not run")
    with atomic_directory(target, replace=True) as work:
        (work / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_and_an_unwritable_parent_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="symbolic link"), atomic_directory(tmp_path / "link", replace=True):
        pytest.fail("the block must not run")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write beside"), atomic_directory(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("had_old", [False, True])
def test_killed_in_the_middle_leaves_the_old_directory_or_none(tmp_path: Path, had_old: bool) -> None:
    target = tmp_path / "out"
    if had_old:
        target.mkdir()
        (target / "old").touch()
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom edgepress.disk.files import atomic_directory\n"
        "with atomic_directory(Path(sys.argv[1]), replace=True) as work:\n"
        "    (work / 'new').touch()\n    print('inside', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"inside\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert ([path.name for path in target.iterdir()] if target.exists() else []) == (["old"] if had_old else [])


@pytest.mark.parametrize("had_old", [False, True])
def test_a_signal_between_any_two_instructions_leaves_the_old_directory_or_the_new_one(
    tmp_path: Path, had_old: bool
) -> None:
    """A handler's SystemExit is raised before each bytecode instruction of files.py and of contextlib in turn."""
    met: set[str] = set()
    for count in itertools.count():
        folder = tmp_path / str(count)
        folder.mkdir()
        if had_old:
            (folder / "out").mkdir()
            (folder / "out" / "old").touch()
        raised = write_and_raise(folder / "out", count)
        assert [path.name for path in folder.iterdir()] in ([], ["out"]), f"stopped at instruction {count}"
        left = [path.name for path in (folder / "out").iterdir()] if (folder / "out").exists() else []
        met.add(str(left))
        if not raised:
            break
    assert count > 100
    assert met == {str(["old"] if had_old else []), str(["new"])}


def write_and_raise(target: Path, count: int) -> bool:
    """Replace ``target`` by a directory with a file ``new``; whether that was stopped at instruction ``count``."""
    left = count

    def trace(frame: FrameType, event: str, _argument: object) -> TraceFunction | None:
        nonlocal left
        if frame.f_code.co_filename not in TRACED:
            return None
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if left < 0:
            sys.settrace(None)
            raise SystemExit(143)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with atomic_directory(target, replace=True) as work:
            (work / "new").touch()
    except SystemExit:
        return True
    finally:
        sys.settrace(before)
    return False


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_holds_is_not(tmp_path: Path) -> None:
    left = tmp_path / f".out.{16 * 'a'}.partial"
    left.mkdir(0o700)
    workspace.write_note(left)
    (left / "out").mkdir()
    (left / "out" / "file").touch()
    with atomic_directory(tmp_path / "out") as first:
        assert not left.exists()
        with atomic_directory(tmp_path / "out") as second:
            assert first.exists()
            (second / "mine").touch()
        (first / "mine").touch()
        (tmp_path / "out" / "mine").unlink()
        (tmp_path / "out").rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are longer elsewhere")
@pytest.mark.parametrize("length", [230, 240, 255])
def test_a_name_too_long_for_a_place_beside_it_is_one_clear_error(length: int, tmp_path: Path) -> None:
    target = tmp_path / ("n" * length)
    refused = pytest.raises(InputError, match=r"cannot write beside .*n: File name too long")
    with refused, atomic_directory(target, replace=True):
        pytest.fail("the block must not run")
    assert list(tmp_path.iterdir()) == []
