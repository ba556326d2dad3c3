"""Folders beside an output: used, emptied and removed when they are ours, and left alone in every other case."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepress.disk import workspace
from edgepress.errors import InputError

BY = "the test works"
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such owners and modes")


def everything(folder: Path) -> dict[str, str]:
    """Each entry below ``folder`` and what it is."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink()) if path.is_symlink() else str(path.is_file())
        for path in sorted(folder.rglob("*"))
    }


def use(folder: Path) -> None:
    """Do what an export does with a folder of its own, to the end."""
    with workspace.held(folder, BY):
        workspace.clear(folder)
        (folder / "stage").write_text("done", encoding="utf-8")
    workspace.remove(folder)


def test_ours_is_private_found_again_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / ".out.edgepress"
    with workspace.held(folder, BY):
        (folder / "stage").touch()
        (folder / "inner").mkdir()
        if sys.platform != "win32":
            assert folder.stat().st_mode & 0o077 == 0
            with pytest.raises(InputError, match=f"{BY} in .*; wait for it"), workspace.held(folder, BY):
                pytest.fail("two are in one folder")
    with workspace.held(folder, BY):
        assert {path.name for path in folder.iterdir()} == {workspace.NOTE, "stage", "inner"}
        workspace.clear(folder)
        assert [path.name for path in folder.iterdir()] == [workspace.NOTE]
    workspace.remove(folder)
    assert list(folder.parent.iterdir()) == []


def test_an_empty_folder_that_a_kill_left_is_taken(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir(0o700)
    use(tmp_path / "work")
    assert list(tmp_path.iterdir()) == []


def link_to_folder(place: Path, elsewhere: Path) -> None:
    place.symlink_to(elsewhere, target_is_directory=True)


def link_to_a_folder_of_ours(place: Path, elsewhere: Path) -> None:
    workspace.write_note(elsewhere)
    place.symlink_to(elsewhere, target_is_directory=True)


def dangling_link(place: Path, _: Path) -> None:
    place.symlink_to(place.parent / "nowhere")


def plain_file(place: Path, _: Path) -> None:
    place.write_text("mine")


def folder_of_another(place: Path, _: Path) -> None:
    place.mkdir(0o700)
    (place / "key.json").write_text("{}")
    (place / "thesis.tex").write_text("mine")


def link_for_a_note(place: Path, elsewhere: Path) -> None:
    place.mkdir(0o700)
    (place / workspace.NOTE).symlink_to(elsewhere / "thesis.tex")


def link_below(place: Path, elsewhere: Path) -> None:
    place.mkdir(0o700)
    workspace.write_note(place)
    (place / "inner").mkdir()
    (place / "inner" / "stage").symlink_to(elsewhere / "thesis.tex")


def folder_link_below(place: Path, elsewhere: Path) -> None:
    place.mkdir(0o700)
    workspace.write_note(place)
    (place / "generator").symlink_to(elsewhere, target_is_directory=True)


def pipe_below(place: Path, _: Path) -> None:
    place.mkdir(0o700)
    workspace.write_note(place)
    os.mkfifo(place / "stage")


@posix
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (link_to_folder, "is a link, .* remove it, or choose another output"),
        (link_to_a_folder_of_ours, "is a link"),
        (dangling_link, "is a link"),
        (plain_file, "is no directory, .* move it, or choose another output"),
        (folder_of_another, r"holds key.json, thesis.tex, and no note of ours.*before 0\.2\.0 left it, .*: remove it"),
        (link_for_a_note, "no note of ours"),
        (link_below, "inner/stage is a link or a special file"),
        (folder_link_below, "generator is a link or a special file"),
        (pipe_below, "stage is a link or a special file"),
    ],
)
def test_what_is_not_ours_is_refused_by_name_and_stays(
    make: Callable[[Path, Path], None], message: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.tex").write_text("mine")
    place = tmp_path / ".out.edgepress"
    make(place, elsewhere)
    before = everything(tmp_path)
    with pytest.raises(InputError, match=message) as caught, workspace.held(place, BY):
        pytest.fail("it was used")
    assert "\n" not in str(caught.value)
    if "below" not in make.__name__:  # that one is ours, and what a link in it leads to stays
        workspace.remove(place)
    assert everything(tmp_path) == before
    workspace.remove(place)
    assert (elsewhere / "thesis.tex").read_text() == "mine"


@posix
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_into_is_refused_and_stays(mode: int, tmp_path: Path) -> None:
    place = tmp_path / ".out.edgepress"
    with workspace.held(place, BY):
        (place / "stage").touch()
    place.chmod(mode)
    with pytest.raises(InputError, match=rf"may be written by others \(mode {mode:o}\); .* choose another output"):
        use(place)
    workspace.remove(place)
    assert (place / "stage").exists()


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_refused_and_stays(tmp_path: Path) -> None:
    place = tmp_path / ".out.edgepress"
    with workspace.held(place, BY):
        (place / "stage").touch()
    os.chown(place, 12345, 12345)
    with pytest.raises(InputError, match=r"belongs to another user \(number 12345\); what is in it cannot"):
        use(place)
    workspace.remove(place)
    assert (place / "stage").exists()


@posix
def test_where_a_file_system_gives_every_folder_one_owner_and_mode_ours_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As vfat and shared folders of virtual machines do: 0777, whatever is asked for."""
    place = tmp_path / ".out.edgepress"
    place.mkdir()
    place.chmod(0o777)
    probe = tempfile.mkdtemp

    def open_to_all(*arguments: object, **named: object) -> str:
        made = probe(*arguments, **named)  # type: ignore[call-overload]
        Path(made).chmod(0o777)
        return str(made)

    monkeypatch.setattr(tempfile, "mkdtemp", open_to_all)
    use(place)
    assert list(tmp_path.iterdir()) == []


def test_the_place_beside_an_output_has_its_name_however_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "build").mkdir()
    monkeypatch.chdir(tmp_path / "build")
    expected = tmp_path / ".build.edgepress"
    for given in (".", "../build", "../build/", "../build/../build", str(tmp_path / "build")):
        assert workspace.beside(Path(given)) == expected


def export_to(out: Path, *parts: workspace.Part, error: type[BaseException] | None = None) -> None:
    """Do what an export does: ask for parts, write a stage into each, and end well or with ``error``."""
    with workspace.Workspace.opened(out) as kept:
        for part in parts:
            (kept.part(part) / "stage").write_text("done", encoding="utf-8")
        if error is not None:
            raise error


def test_an_export_that_keeps_nothing_makes_no_folder(tmp_path: Path) -> None:
    with workspace.Workspace.opened(tmp_path / "out") as kept:
        assert not kept.folder.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt, OSError])
def test_what_is_done_stays_until_an_export_to_that_place_ends_well(
    error: type[BaseException], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, folder = tmp_path / "out", tmp_path / ".out.edgepress"
    with pytest.raises(error):
        export_to(out, "pruning", "calibration", error=error)
    assert f"what is done is kept in {folder}: the same command goes on from there" in caplog.text
    assert f"`edgepress clean {out}` removes it" in caplog.text
    assert {path.name for path in folder.iterdir()} == {workspace.NOTE, "pruning", "calibration"}
    with pytest.raises(error):  # one that asks for less leaves the rest alone
        export_to(out, "prices", error=error)
    assert (folder / "pruning" / "stage").read_text() == "done"
    export_to(out)  # this one needs none of it
    assert list(tmp_path.iterdir()) == []


def test_an_error_before_anything_is_done_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        with workspace.Workspace.opened(tmp_path / "out") as kept:
            kept.part("calibration")
            raise InputError("no text")

    with pytest.raises(InputError):
        fail()
    assert list(tmp_path.iterdir()) == []
    assert caplog.text == ""


@posix
def test_two_exports_to_one_place_do_not_meet(tmp_path: Path) -> None:
    with workspace.Workspace.opened(tmp_path / "out") as kept:
        (kept.part("prices") / "stage").touch()
        with (
            workspace.Workspace.opened(tmp_path / "out") as other,
            pytest.raises(InputError, match=r"another export works in .*\.out\.edgepress; wait for it, or choose"),
        ):
            other.part("prices")
        assert (kept.folder / "prices" / "stage").exists()  # the other ended well, and removed nothing
    assert list(tmp_path.iterdir()) == []


@posix
def test_parts_in_a_folder_that_is_not_ours_are_not_made(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / ".out.edgepress").symlink_to(elsewhere, target_is_directory=True)
    before = everything(tmp_path)
    with pytest.raises(InputError, match="is a link"):
        export_to(tmp_path / "out", "calibration")
    export_to(tmp_path / "out")
    assert everything(tmp_path) == before
