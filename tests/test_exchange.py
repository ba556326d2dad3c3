"""A new directory in the place of an old one: killed or read at any moment, one of them is there whole."""

import os
import subprocess
import sys
from pathlib import Path

import killed_lines
import pytest
from killed_lines import FILES, fill, replace

import edgepress.disk.files
from edgepress.bundle.manifest import read_manifest
from edgepress.disk import workspace
from edgepress.disk.exchange import exchange, read_steady
from edgepress.disk.files import atomic_directory, recover
from edgepress.errors import InputError
from edgepress.runtime.config import read_config

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork: a kill at each line would take hours")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole directories are asked about here, not what a power cut leaves."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def content(folder: Path) -> set[tuple[str, str]]:
    return {(path.relative_to(folder).as_posix(), path.read_text()) for path in folder.rglob("*") if path.is_file()}


def whole(text: str) -> set[tuple[str, str]]:
    return {(name, text) for name in FILES}


@needs_fork
@pytest.mark.parametrize("can_exchange", [True, False])
def test_killed_at_any_line_the_old_or_the_new_is_there_and_the_next_run_leaves_nothing_else(
    tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an exchange a kill may leave none, and then the old one is put back."""
    if can_exchange:
        (tmp_path / "one").mkdir()
        (tmp_path / "other").mkdir()
        if not exchange(tmp_path / "one", tmp_path / "other"):
            pytest.skip("this system or its file system does not exchange directories")
    else:
        monkeypatch.setattr(edgepress.disk.files, "exchange", lambda *_: False)
    command = [sys.executable, killed_lines.__file__, "exchange" if can_exchange else "rename"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killer:
        _kill_at_every_line(killer, tmp_path, can_exchange)


def _kill_at_every_line(killer: subprocess.Popen[str], tmp_path: Path, can_exchange: bool) -> None:
    assert killer.stdin is not None
    assert killer.stdout is not None
    met: set[str] = set()
    missing, line, was_killed = 0, 0, True
    while was_killed:
        folder = tmp_path / str(line)
        folder.mkdir()
        target = folder / "out"
        fill(target, "old")
        print(line, target, file=killer.stdin, flush=True)
        was_killed = {"True": True, "False": False}[killer.stdout.readline().strip()]
        if not target.exists():
            missing += 1
            recover(target)
        found = content(target)
        assert found in (whole("old"), whole("new")), f"killed at line {line}"
        met.add(next(iter(found))[1])
        for path in folder.iterdir():  # as if seconds had gone by since
            os.utime(path, (1, 1))
        replace(target)
        assert content(target) == whole("new")
        assert [path.name for path in folder.iterdir()] == ["out"], f"killed at line {line}"
        line += 1
    assert met == {"old", "new"}
    assert bool(missing) == (not can_exchange)


READER = """
import os, sys
from pathlib import Path
target, seen = Path(sys.argv[1]), 0
print("reading", flush=True)
while not Path(sys.argv[2]).exists():
    folder = os.open(target, os.O_RDONLY)  # raises when it is missing
    names = sorted(os.listdir(target))
    texts = set()
    try:
        for name in ("a", "inner/b"):
            with open(os.open(name, os.O_RDONLY, dir_fd=folder)) as file:
                texts.add(file.read())
    except FileNotFoundError:  # removed meanwhile, as it was replaced
        texts.clear()
    replaced = os.fstat(folder).st_ino != os.stat(target).st_ino
    os.close(folder)
    assert replaced or len(texts) == 1, (names, texts)
    seen += 1
print(seen)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="directories cannot be opened there")
def test_who_reads_while_directories_are_replaced_never_finds_none_or_half_of_one(tmp_path: Path) -> None:
    target, end = tmp_path / "out", tmp_path / "end"
    fill(target, "0")
    (tmp_path / "one").mkdir()
    if not exchange(tmp_path / "one", target) or not exchange(tmp_path / "one", target):
        pytest.skip("this system or its file system does not exchange directories")
    command = [sys.executable, "-c", READER, str(target), str(end)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        for number in range(1, 200):
            with atomic_directory(target, replace=True) as work:
                fill(work, str(number))
        end.touch()
        seen, errors = reader.communicate()
    assert reader.returncode == 0, errors
    assert int(seen) > 20


def test_what_a_kill_between_two_renames_left_is_put_back(tmp_path: Path) -> None:
    """As this version leaves it where nothing exchanges directories, and as those before 0.2.0 left it anywhere."""
    for place, inside in ((f".new.{16 * 'a'}.partial", ".edgepress-replaced"), (f".old.{16 * 'a'}.old", "old")):
        (tmp_path / place).mkdir(0o700)
        fill(tmp_path / place / inside, "old")
    workspace.write_note(tmp_path / f".new.{16 * 'a'}.partial")
    for name in ("new", "old"):
        with pytest.raises(InputError, match=rf"{name} is missing: .* left it in .*\.{name}\..*; move it back"):
            read_manifest(tmp_path / name)
        with pytest.raises(InputError, match=f"{name} is missing: "):
            read_config(tmp_path / name)
    for name in ("new", "old"):
        with pytest.raises(InputError, match="exists already"), atomic_directory(tmp_path / name):
            pytest.fail("the block must not run")
        assert content(tmp_path / name) == whole("old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_what_is_not_ours_beside_the_output_stays(tmp_path: Path) -> None:
    """Names as ours, without our note; a link; an older version's copy that may not be removed."""
    elsewhere = tmp_path / "elsewhere"
    fill(elsewhere, "mine")
    beside = tmp_path / "beside"
    names = [f".out.{16 * 'b'}.partial", ".out.abc.partial", f".out.{16 * 'c'}.old", ".out.old", ".out.partial"]
    for name in names:
        (beside / name).mkdir(parents=True)
        fill(beside / name / "out", "mine")
        os.utime(beside / name, (1, 1))
    (beside / f".out.{16 * 'd'}.partial").symlink_to(elsewhere)
    (beside / "out").mkdir()

    def never(_: Path) -> None:
        raise InputError("it has to stay")

    for may_remove in (None, never):
        recover(beside / "out", may_remove)
    (beside / "out").rmdir()
    with atomic_directory(beside / "new") as work:
        fill(work, "new")
    assert content(elsewhere) == whole("mine")
    for name in names:
        assert content(beside / name / "out") == whole("mine")


def test_a_directory_that_may_not_be_removed_when_the_new_one_is_ready_stays(tmp_path: Path) -> None:
    """What was replaceable at the start has become something else while the block ran."""
    target = tmp_path / "out"
    fill(target, "old")

    def refuse(path: Path) -> None:
        if (path / "thesis").exists():
            raise InputError(f"{path} holds a thesis")

    refused = pytest.raises(InputError, match="holds a thesis")
    with refused, atomic_directory(target, replace=True, may_remove=refuse) as work:
        fill(work, "new")
        (target / "thesis").touch()
    assert content(target) == whole("old") | {("thesis", "")}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_read_while_the_directory_is_replaced_is_read_again(tmp_path: Path) -> None:
    """Half of the old and half of the new, an error because of it, and at last a whole one."""
    target = tmp_path / "out"
    fill(target, "0")
    turns = iter(range(99))

    def read() -> set[str]:
        turn = next(turns)
        first = (target / "a").read_text()
        if turn < 2:
            with atomic_directory(target, replace=True) as work:
                fill(work, str(turn + 1))
        if turn == 1:
            raise InputError("a file is gone")
        return {first, (target / "inner" / "b").read_text()}

    assert read_steady(target, read) == {"2"}
    assert next(turns) == 3
    with pytest.raises(ZeroDivisionError):
        read_steady(target, lambda: 1 // 0)
    with pytest.raises(InputError, match="was replaced 5 times while it was being read"):
        read_steady(target, lambda: replace(target))
