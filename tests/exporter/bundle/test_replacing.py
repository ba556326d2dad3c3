"""``--force`` removes bundles and nothing else: what it finds instead is named, and stays."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models

from edgepress.bundle import manifest
from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.bundle import files as bundle
from edgepress.exporter.bundle.replacing import check_output


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("llama", tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    export(model, out=out, recipe="int8")
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A bundle of ours where the next one is to be."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def force(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["export", str(model), "--recipe", "int4", "--out", str(out), "--force"])
    return code, capsys.readouterr().err


def web_app(out: Path) -> None:
    shutil.rmtree(out)
    (out / "icons").mkdir(parents=True)
    (out / "icons" / "192.png").touch()
    (out / "index.html").write_text("<html>")
    content = {"name": "My app", "short_name": "app", "start_url": "/", "icons": [{"src": "icons/192.png"}]}
    (out / "manifest.json").write_text(json.dumps(content))


def extension(out: Path) -> None:
    shutil.rmtree(out)
    out.mkdir()
    (out / "background.js").touch()
    (out / "manifest.json").write_text(json.dumps({"manifest_version": 3, "name": "x", "version": "1"}))


def many_files(out: Path) -> None:
    shutil.rmtree(out)
    out.mkdir()
    for name in ("manifest.json", "a.txt", "b.txt", "c.txt", "d.txt"):
        (out / name).write_bytes(b"\xff\xfe not json")


def a_list(out: Path) -> None:
    (out / "manifest.json").write_text("[1, 2]")


def a_link_to_a_bundle(out: Path) -> None:
    out.rename(out.with_name("kept"))
    out.symlink_to(out.with_name("kept"), target_is_directory=True)


def a_changed_manifest(out: Path) -> None:
    text = (out / "manifest.json").read_text().replace('"int8"', '"int7"')
    (out / "manifest.json").write_text(text)


def notes_beside(out: Path) -> None:
    (out / "results").mkdir()
    (out / "results" / "notes.txt").write_text("mine")


def a_link_beside(out: Path) -> None:
    (out / "data").symlink_to(out.parent)


def a_repository(out: Path) -> None:
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").touch()


def a_name_of_two_lines(out: Path) -> None:
    (out / "two\nlines").touch()


def a_card(out: Path) -> None:
    (out / "README.md").write_text("What I found out about this model")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            web_app,
            r"manifest.json, with icons, name, short_name and 1 more in it.*holds icons, index.html, manifest.js",
        ),
        (extension, r"with manifest_version, name, version in it, was written by another program"),
        (many_files, r"which is not ours, was written by another program; .* holds a.txt, b.txt, c.txt and 2 more;"),
        (a_list, "which is not ours, was written by another program"),
        (a_link_to_a_bundle, "is a symbolic link"),
        (a_changed_manifest, "manifest.json was changed after it was written"),
        (notes_beside, r"holds what no export wrote: results/notes.txt. --force would remove that too"),
        (a_link_beside, r"holds what no export wrote: data\. "),
        (a_repository, r"holds what no export wrote: \.git/HEAD\. "),
        (a_name_of_two_lines, r"holds what no export wrote: 'two\\nlines'\. "),
        (a_card, r"holds what no export wrote: README.md\. "),
    ],
)
def test_force_leaves_alone_what_is_not_a_bundle_of_ours_and_names_it(
    make: Callable[[Path], None], message: str, model: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(out)
    before = everything(out.parent)
    code, errors = force(model, out, capsys)
    assert code == 2
    with pytest.raises(InputError, match=message):
        raise InputError(errors)
    assert everything(out.parent) == before


def from_the_hub(out: Path) -> None:
    """As ``hf download --local-dir`` leaves a bundle: its own notes, and the files of the repository that are none."""
    notes = out / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    for name in (".gitattributes", "README.md"):
        (out / name).touch()
        (notes / f"{name}.metadata").touch()
    (out / ".cache" / "huggingface" / ".gitignore").write_text("*")


def looked_at(out: Path) -> None:
    """As file managers leave any directory."""
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (out / name).touch()


def older(out: Path) -> None:
    content = json.loads((out / "manifest.json").read_text()) | {"schema_version": 1, "gone_since": True}
    content["manifest_sha256"] = manifest._digest(content)
    (out / "manifest.json").write_text(manifest.canonical(content))
    with pytest.raises(InputError, match="schema version 1"):
        read_manifest(out)


def damaged_data(out: Path) -> None:
    os.truncate(out / "model.onnx.data", 100)
    (out / "model.onnx").unlink()


def empty(out: Path) -> None:
    shutil.rmtree(out)
    out.mkdir()


@pytest.mark.parametrize("make", [from_the_hub, looked_at, older, damaged_data, empty, lambda _: None])
def test_force_replaces_a_bundle_of_ours(
    make: Callable[[Path], None], model: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(out)
    assert force(model, out, capsys)[0] == 0
    assert find_problems(out) == []
    assert read_manifest(out).recipe["name"] == "int4"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(("below", "name"), [(".", "."), (".", "../out"), ("inside", "..")])
def test_the_working_directory_is_not_replaced_under_who_stands_in_it(
    below: str, name: str, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was, and the export then failed to read its own bundle by that name."""
    (out / "inside").mkdir()
    monkeypatch.chdir(out / below)
    before, number = everything(out.parent), out.stat().st_ino
    code, errors = force(model, Path(name), capsys)
    assert (code, everything(out.parent), out.stat().st_ino) == (2, before, number)
    assert "is the working directory or holds it" in errors


@pytest.mark.skipif(not Path("/proc").is_mount(), reason="no directory is known to be a mount point")
def test_a_mount_point_is_refused_before_the_work() -> None:
    with pytest.raises(InputError, match="/proc is a mount point"):
        check_output(Path("/proc"), force=True)


def test_what_became_the_user_s_while_an_export_ran_stays(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at again right before the exchange: an export takes hours."""
    before = everything(out)
    writes = bundle.write_manifest

    def meanwhile(*args: object, **kwargs: object) -> object:
        (out / "thesis.tex").write_text("mine")
        return writes(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(bundle, "write_manifest", meanwhile)
    with pytest.raises(InputError, match=r"holds what no export wrote: thesis\.tex"):
        export(model, out=out, recipe="int4", force=True)
    assert everything(out) == before | {"thesis.tex": b"mine"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_bundle_that_an_older_kill_left_aside_is_put_back_before_anything_else(
    model: Path, out: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = out.parent / f".out.{16 * '0'}.old"
    aside.mkdir()
    out.rename(aside / "out")
    assert main(["export", str(model), "--recipe", "int4", "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert everything(out) == everything(made)
    for replaced in (made, model):  # a copy of a bundle goes, anything else stays
        aside.mkdir()
        shutil.copytree(replaced, aside / "out")
        assert force(model, out, capsys)[0] == 0
        assert aside.exists() == (replaced == model)


@pytest.mark.parametrize("kind", ["calibration", "pruning", "budget"])
def test_what_lies_under_the_name_of_a_stage_folder_survives_an_export_that_needs_none(
    kind: str, model: Path, tmp_path: Path
) -> None:
    (tmp_path / f".out.{kind}").mkdir()
    (tmp_path / f".out.{kind}" / "mine").touch()
    export(model, out=tmp_path / "out", recipe="int4")
    assert (tmp_path / f".out.{kind}" / "mine").exists()
