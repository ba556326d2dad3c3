"""``edgepress clean``: it shows and removes what is ours and nobody uses, and leaves everything else as it is."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgepress.cli import main
from edgepress.disk import workspace
from edgepress.disk.cache import CACHES, cache_folder
from edgepress.disk.files import REPLACED
from edgepress.disk.leftovers import find_leftovers, format_age
from edgepress.errors import InputError

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such owners, links and locks")
PARTIAL = f".out.{16 * 'a'}.partial"


def leave(folder: Path, *parts: str) -> Path:
    """A directory of ours with a file of 1,000,000 bytes in each of ``parts``."""
    folder.mkdir(0o700, parents=True)
    workspace.write_note(folder)
    for part in parts:
        (folder / part).mkdir()
        (folder / part / "stage").write_bytes(bytes(1_000_000))
    return folder


def clean(*arguments: object) -> int:
    return main(["clean", *map(str, arguments)])


@contextmanager
def elsewhere_held(folder: Path) -> Iterator[None]:
    """Another process holds ``folder``, as an export that runs does."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom edgepress.disk import workspace\n"
        "held = workspace.hold(Path(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield
        child.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("place", ["out", "."])
def test_it_shows_and_removes_nothing_unless_it_is_told(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = leave(tmp_path / ".out.edgepress", "calibration", "prices")
    assert clean(tmp_path / place) == 0
    printed = capsys.readouterr().out
    assert "calibration 1.0 MB, prices 1.0 MB" in printed
    assert "out (not there)" in printed
    assert "nothing is removed; --yes removes 1, 2.0 MB" in printed
    assert folder.is_dir()
    assert clean(tmp_path / place, "--yes") == 0
    assert "removed 1 of 1" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert clean(tmp_path) == 0
    assert "nothing is left of an export" in capsys.readouterr().out


def test_an_output_has_only_what_lies_beside_it_and_in_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    beside, inside = leave(tmp_path / ".out.edgepress", "prices"), leave(tmp_path / "out" / ".one.edgepress", "pruning")
    leave(tmp_path / ".outer.edgepress", "prices")
    leave(tmp_path / ".out.part.edgepress", "prices")
    leave(tmp_path / "out" / "deeper" / ".two.edgepress", "prices")
    assert {leftover.path for leftover in find_leftovers(tmp_path / "out")} == {beside, inside}


@pytest.mark.parametrize("kind", ["calibration", "pruning", "budget"])
def test_folders_of_an_earlier_version_are_recognised(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(tmp_path / f".out.{kind}", "layers")
    mine = tmp_path / f".mine.{kind}"  # the name alone says nothing
    mine.mkdir()
    assert clean(tmp_path, "--yes") == 0
    assert f"{kind} of an earlier version, of no use to this one" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [mine]


@posix
def test_what_is_not_ours_is_shown_and_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    (mine / "thesis").mkdir(parents=True)
    leave(mine / "noted")
    (tmp_path / ".linked.edgepress").symlink_to(mine / "noted", target_is_directory=True)
    (tmp_path / ".other.edgepress").mkdir()
    leave(tmp_path / ".open.edgepress", "prices").chmod(0o777)
    (tmp_path / ".file.edgepress").write_text("mine")
    inside = leave(tmp_path / ".ours.edgepress", "pruning") / "pruning" / "link"
    inside.symlink_to(mine, target_is_directory=True)
    assert clean(tmp_path, "--yes") == 0
    printed = capsys.readouterr().out
    assert printed.count("stays: not edgepress's, or others may write to it") == 4
    assert "removed 1 of 1" in printed
    left = {".linked.edgepress", ".other.edgepress", ".open.edgepress", ".file.edgepress", "mine"}
    assert {path.name for path in tmp_path.iterdir()} == left
    assert {path.name for path in mine.iterdir()} == {"thesis", "noted"}


@posix
def test_what_an_export_works_in_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, partial = leave(tmp_path / ".out.edgepress", "prices"), leave(tmp_path / PARTIAL, "out")
    (found,) = [each for each in find_leftovers(tmp_path) if each.path == folder]
    with elsewhere_held(folder), elsewhere_held(partial):
        assert clean(tmp_path, "--yes") == 0
        assert capsys.readouterr().out.count("stays: in use") == 2
        assert not found.remove()  # it was free when it was looked at
        assert (folder / "prices" / "stage").exists()
    assert clean(tmp_path, "--yes") == 0
    assert list(tmp_path.iterdir()) == []


@posix
def test_an_old_bundle_that_a_kill_left_aside_is_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partial = leave(tmp_path / PARTIAL, "out", REPLACED)
    (partial / REPLACED / "manifest.json").write_text("the old one")
    assert clean(tmp_path / "out", "--yes") == 0
    assert "the old out, which will be put back" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "manifest.json").read_text() == "the old one"


def test_a_place_that_is_not_there_is_refused_unless_an_export_to_it_has_left_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clean(tmp_path / "out", "--yes") == 2
    assert f"{tmp_path / 'out'} is not there, and no export to it has left anything" in capsys.readouterr().err
    leave(tmp_path / ".out.edgepress", "prices")
    assert clean(tmp_path / "out", "--yes") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clean(tmp_path / "nowhere" / "out") == 2
    assert "neither is the directory in which it would lie" in capsys.readouterr().err
    with pytest.raises(InputError):
        find_leftovers(tmp_path / "nowhere" / "out")


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_a_terminal_is_asked(answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = leave(tmp_path / ".out.edgepress", "prices")
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert clean(tmp_path) == 0
    assert asked == ["remove 1, 1.0 MB? [y/N] "]
    assert folder.exists() == (answer != "y")


@pytest.mark.parametrize("chosen", [False, True], ids=["the user's cache", "EDGEPRESS_CACHE"])
def test_caches_are_listed_and_emptied_of_what_is_theirs(
    chosen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EDGEPRESS_CACHE", raising=False)
    if chosen:
        monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "chosen"))
    names = {"prepared": f"{16 * 'a'}-{16 * 'b'}", "verified": "c.json", "emulator": "user", "references": "d"}
    for name in CACHES:
        entry = cache_folder(name) / names[name]
        entry.mkdir(0o700, parents=True)
        (entry / "data").write_bytes(bytes(3_000_000))
    mine = cache_folder("prepared") / "mine"
    mine.mkdir()
    assert clean("--cache") == 0
    printed = capsys.readouterr().out
    for name in CACHES:
        assert str(cache_folder(name)) in printed
    assert printed.count("3.0 MB") == 4
    assert "--yes removes 4, 12.0 MB" in printed
    assert clean("--cache", "--yes") == 0
    assert "removed what was in prepared, verified, emulator, references" in capsys.readouterr().out
    assert all(not (cache_folder(name) / names[name]).exists() for name in CACHES)
    assert mine.is_dir()


@posix
def test_a_cache_that_others_may_write_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "verified").mkdir()
    (tmp_path / "verified" / "a.json").touch()
    (tmp_path / "verified").chmod(0o777)
    assert clean("--cache", "--yes") == 2
    assert "may be written by others" in capsys.readouterr().err
    assert (tmp_path / "verified" / "a.json").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 seconds ago"), (119, "119 seconds ago"), (7_199, "119 minutes ago"), (7_200, "2 hours ago")],
)
def test_ages_are_in_the_largest_unit_that_there_are_two_of(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


@posix
def test_names_with_control_characters_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path / ".o\x1b[2Jut.edgepress", "prices")
    assert clean(tmp_path) == 0
    assert "\x1b" not in capsys.readouterr().out
