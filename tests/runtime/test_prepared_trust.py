"""A prepared form is used only when it is this user's, and is what was written."""

import json
import os
import stat
from pathlib import Path

import pytest
from prepared_bundles import make_bundle, run

from edgepress.cli import main
from edgepress.disk.stamps import PAGE, find_changed_page, hash_pages, stamp
from edgepress.errors import InputError
from edgepress.runtime import prepared
from edgepress.runtime.graph_file import form

OWNERS = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no such owners")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "new" / "cache"


def made(bundle: Path, cache: Path) -> Path:
    return prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)


def alter(directory: Path, *, fitting: bool) -> None:
    """Change a packed weight; ``fitting`` writes the note of whoever means it."""
    data = directory / form.DATA
    times = data.stat()
    content = bytearray(data.read_bytes())
    content[-100] ^= 0xFF
    data.write_bytes(content)
    os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))
    if fitting:
        note = json.loads((directory / form.NOTE).read_text())
        whole, pages = hash_pages(data)
        (directory / form.PAGES).write_bytes(pages)
        for name in (form.DATA, form.PAGES):
            digest = whole if name == form.DATA else form.sha256_file(directory / name)
            note["files"][name] |= {"sha256": digest, "stamp": stamp(directory / name)}
        (directory / form.NOTE).write_text(json.dumps(note))


@OWNERS
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_whatever_the_umask_is_the_cache_is_private_and_its_forms_are_used(
    bundle: Path, cache: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(umask)
    try:
        directory = made(bundle, cache)
    finally:
        os.umask(before)
    for folder in (cache, cache.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not any(path.stat().st_mode & 0o022 for path in (directory, *directory.iterdir()))
    monkeypatch.setattr("edgepress.runtime.graph_file.repack.write", None)
    assert made(bundle, cache) == directory


@OWNERS
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_cache_that_others_may_write_is_not_used(bundle: Path, cache: Path, mode: int) -> None:
    expected, _ = run(bundle, cache, prepared=False)
    made(bundle, cache)
    cache.chmod(mode)
    with pytest.raises(InputError, match=r"may be written by others \(mode .*chmod go-w .*EDGEPRESS_CACHE"):
        made(bundle, cache)
    found, state = run(bundle, cache)
    assert found == expected
    assert state.directory is None
    assert "may be written by others" in state.reason


@OWNERS
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["cache", "form", "model.onnx", "model.onnx.data", "prepared.json", "pages.crc32"])
def test_what_another_user_owns_is_not_used(bundle: Path, cache: Path, what: str) -> None:
    expected, _ = run(bundle, cache, prepared=False)
    directory = made(bundle, cache)
    alter(directory, fitting=True)
    os.chown({"cache": cache, "form": directory}.get(what, directory / what), 12345, -1)
    found, state = run(bundle, cache)
    assert found == expected
    if what == "cache":
        assert "belongs to another user (number 12345)" in state.reason
    else:
        assert state.directory == directory
        assert form.find_problem(directory, form.key_of(bundle, bundle / "model.onnx")) is None


@OWNERS
@pytest.mark.parametrize("what", ["form", "model.onnx", "model.onnx.data", "prepared.json"])
def test_a_form_that_others_may_write_is_made_anew(bundle: Path, cache: Path, what: str) -> None:
    expected, _ = run(bundle, cache, prepared=False)
    directory = made(bundle, cache)
    alter(directory, fitting=True)
    path = directory if what == "form" else directory / what
    path.chmod(0o777)
    assert "may be written by others" in str(form.find_problem(directory, form.key_of(bundle, bundle / "model.onnx")))
    assert run(bundle, cache)[0] == expected


def test_a_form_that_is_a_link_is_made_anew(bundle: Path, cache: Path, tmp_path: Path) -> None:
    directory = made(bundle, cache)
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in str(form.find_problem(directory, form.key_of(bundle, bundle / "model.onnx")))


def test_damage_that_keeps_size_and_time_is_found(bundle: Path, cache: Path) -> None:
    expected, _ = run(bundle, cache, prepared=False)
    directory = made(bundle, cache)
    alter(directory, fitting=False)
    assert "content changed" in str(form.find_problem(directory, form.key_of(bundle, bundle / "model.onnx")))
    assert run(bundle, cache)[0] == expected


def test_damage_that_no_stamp_shows_is_found_by_its_page(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a disk forgets: nobody wrote."""
    directory = made(bundle, cache)
    monkeypatch.setattr(form, "_SMALL", 0)
    stamps = {path.name: stamp(path) for path in directory.iterdir()}
    alter(directory, fitting=False)
    monkeypatch.setattr(form, "stamp", lambda path: stamps[path.name])
    assert "content changed at byte" in str(form.find_problem(directory, form.key_of(bundle, bundle / "model.onnx")))


def test_a_note_without_one_of_the_files_is_of_no_use(bundle: Path, cache: Path) -> None:
    directory = made(bundle, cache)
    note = json.loads((directory / form.NOTE).read_text())
    del note["files"][form.DATA]
    (directory / form.NOTE).write_text(json.dumps(note))
    assert form.find_problem(directory, form.key_of(bundle, bundle / "model.onnx")) is not None


# ---- prepare --check -------------------------------------------------------------------------------------------------


def test_the_check_makes_the_form_once_more_and_leaves_nothing(bundle: Path, cache: Path) -> None:
    directory = made(bundle, cache)
    before = {path.name: path.stat().st_ino for path in directory.iterdir()}
    assert prepared.check(bundle, model=bundle / "model.onnx", cache=cache) == []
    assert {path.name: path.stat().st_ino for path in directory.iterdir()} == before
    assert {path.name for path in cache.iterdir()} == {".lock", directory.name}


def test_the_check_finds_data_with_a_note_that_fits(bundle: Path, cache: Path) -> None:
    directory = made(bundle, cache)
    alter(directory, fitting=True)
    assert form.check(directory) == []  # every hash that the note has is right
    problems = prepared.check(bundle, model=bundle / "model.onnx", cache=cache)
    assert [problem.split(":")[0] for problem in problems] == [str(directory / form.DATA)]


def test_prepare_check_reports_and_does_not_mend(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny_models import save

    from edgepress.exporter import export

    export(save("llama", tmp_path / "checkpoint"), out=tmp_path / "out", recipe="int4")
    words = ["prepare", str(tmp_path / "out"), "--cache", str(cache)]
    assert main([*words, "--check"]) == 0  # makes it first
    (directory,) = (path for path in cache.iterdir() if path.is_dir())
    assert "byte for byte" in capsys.readouterr().out
    for fitting in (True, False):
        alter(directory, fitting=fitting)
        assert main([*words, "--check"]) == 1
        error = capsys.readouterr().err
        assert "model.onnx.data" in error
        assert "--force" in error
        assert main([*words, "--force", "--check"]) == 0
        capsys.readouterr()


# ---- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, 7 * PAGE, 10 * PAGE + 17])
def test_every_page_is_looked_at_when_there_is_time(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    whole, pages = hash_pages(path)
    assert whole == form.sha256_file(path)
    assert find_changed_page(path, pages, 60) is None
    for position in {0, size // 2, size - 1} if size else ():
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)
        assert find_changed_page(path, pages, 60) == position // PAGE * PAGE
        content[position] ^= 1
        path.write_bytes(content)


def test_without_time_one_page_is_looked_at_and_another_at_each_call(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8 * PAGE))
    _, pages = hash_pages(path)
    path.write_bytes(bytes(4 * PAGE) + b"\1" * 4 * PAGE)  # half of the pages
    found = {find_changed_page(path, pages, 0) for _ in range(200)}
    assert found == {None, 4 * PAGE, 5 * PAGE, 6 * PAGE, 7 * PAGE}
