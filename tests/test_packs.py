"""Packs: several bundles in one folder, found by name, told apart, and what they take together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from foreign_models import MODELS, feed_of, save
from hypothesis import given
from hypothesis import strategies as st

from edgepress.bundle.packs import INDEX, Index, Memory, Packed, check_name, pack_problems, read_index
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.packing.make import pack


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    export(save(MODELS["tied"](), folder / "tied.onnx"), out=folder / "lookup", recipe="int8", threads=1)
    export(tiny_models.save("llama", folder / "llama"), out=folder / "text", recipe="int4", threads=1)
    return folder


@pytest.fixture(scope="module")
def app(home: Path) -> Path:
    words = [f"assistant={home / 'text'}", f"embedder={home / 'lookup'}", "--out", str(home / "app")]
    assert main(["pack", *words]) == 0
    return home / "app"


def test_each_bundle_of_a_pack_is_what_it_was(home: Path, app: Path) -> None:
    assert pack_problems(app) == []
    assert sorted(path.name for path in app.iterdir()) == ["assistant", "embedder", INDEX]
    feed = feed_of(MODELS["tied"]())
    one, other = load(app, "embedder", prepared=False), load(home / "lookup", prepared=False)
    for name, array in other.run(feed).items():
        assert np.array_equal(one.run(feed)[name], array)
    tokens = [3, 1, 4]
    assert np.array_equal(load(app, "assistant").prefill(tokens), load(app / "assistant").prefill(tokens))


def test_bytes_and_memory_are_told_alone_added_and_together(app: Path) -> None:
    index = read_index(app)
    assert [packed.task for packed in index.bundles.values()] == ["text-generation", "tensors"]
    folders = {name: sum(p.stat().st_size for p in (app / name).rglob("*") if p.is_file()) for name in index.bundles}
    assert {name: packed.bytes for name, packed in index.bundles.items()} == folders
    assert index.bytes == sum(folders.values())
    assert index.together is not None
    peaks = [packed.memory.peak for packed in index.bundles.values() if packed.memory is not None]
    assert index.one_at_a_time == max(peaks)
    assert index.added_up is not None
    assert max(peaks) <= index.added_up < sum(peaks)
    assert index.together.peak == pytest.approx(index.added_up, rel=0.25)  # what both take of the allocator is shared


def test_the_command_line_checks_a_pack(app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(app)]) == 0
    said = capsys.readouterr().out
    assert "2 bundles" in said
    assert "one at a time" in said
    assert main(["verify", str(app), "--conformance"]) == 2
    shutil.copytree(app, tmp_path / "broken")
    (tmp_path / "broken/embedder/model.onnx").write_bytes(b"x")
    (tmp_path / "broken/notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "broken/assistant")
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "broken")]) == 1
    said = capsys.readouterr().err
    for words in ("notes.txt is in no index", "assistant is missing", "embedder: "):
        assert words in said


def test_a_bundle_that_was_exchanged_is_not_opened(home: Path, app: Path, tmp_path: Path) -> None:
    shutil.copytree(app, tmp_path / "app")
    shutil.rmtree(tmp_path / "app/embedder")
    shutil.copytree(home / "text", tmp_path / "app/embedder")
    with pytest.raises(InputError, match="another bundle than was packed by that name"):
        load(tmp_path / "app", "embedder")
    assert "embedder is another bundle than was packed by that name" in pack_problems(tmp_path / "app")


def test_which_bundle_is_meant_has_to_be_said(home: Path, app: Path) -> None:
    with pytest.raises(InputError, match="is a pack of assistant, embedder; say which one"):
        load(app)
    with pytest.raises(InputError, match="has no bundle 'speech'; it has assistant, embedder"):
        load(app, "speech")
    with pytest.raises(InputError, match=r"is no pack \(it has no pack.json\)"):
        load(home / "text", "text")


@pytest.mark.parametrize(
    "words",
    [
        ["run", "{app}", "--prompt", "x"],
        ["run", "{app}", "--input", "x.npz"],
        ["check", "{app}", "--target", "x86-cpu"],
        ["bench", "{app}"],
        ["verify", "{app}", "--conformance"],
        ["compare", "{app}", "{app}"],
        ["adapter", "{app}", "none", "--out", "none.onnx_adapter"],
    ],
)
def test_a_verb_that_takes_one_bundle_names_those_of_a_pack(
    app: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(app=app) for word in words]) == 2
    said = capsys.readouterr().err
    assert f"is a pack of several bundles (assistant, embedder); name the one of them that is meant, such as {app}" in (
        said.replace("\n", " ")
    )


def test_a_pack_is_inspected(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(app)]) == 0
    said = capsys.readouterr().out
    assert f"{app}: 2 bundles" in said
    assert f"each is a bundle: `edgepress inspect {app / 'assistant'}`" in said
    assert main(["inspect", str(app), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((app / INDEX).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a={text}", "b={text}"], "a and b are the same bundle"),
        (["a={text}", "a={lookup}"], "two bundles are called a"),
        (["a={text}"], "two bundles or more, and there is 1"),
        (["a={text}", "B={lookup}"], "'B' cannot be the name of a bundle"),
        (["a={text}", "pack.json={lookup}"], "cannot be the name"),
        (["a={text}", "{lookup}"], "is no NAME=BUNDLE"),
        (["a={text}", "b=nowhere"], "nowhere is not a directory"),
    ],
)
def test_what_collides_is_refused_before_anything_is_written(
    home: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(text=home / "text", lookup=home / "lookup") for word in words]
    assert main(["pack", *filled, "--out", str(tmp_path / "app"), "--no-measure"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_and_a_bundle_that_is_damaged_are_refused(home: Path, app: Path, tmp_path: Path) -> None:
    both: dict[str, str | Path] = {"a": home / "text", "b": home / "lookup"}
    with pytest.raises(InputError, match="exists"):
        pack(both, app, measure=False)
    shutil.copytree(home / "lookup", tmp_path / "lookup")
    (tmp_path / "lookup/model.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"model\.onnx"):
        pack(both | {"b": tmp_path / "lookup"}, tmp_path / "app", measure=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"schema": 9}, "has schema 9"), ({"edgepress": "9"}, "was changed after"), ({"more": 1}, "unknown field")],
)
def test_an_index_that_was_changed_is_refused(
    app: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    content = json.loads((app / INDEX).read_text()) | change
    (tmp_path / INDEX).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_index(tmp_path)


def test_without_measuring_nothing_is_added_up(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"a={home / 'text'}", f"b={home / 'lookup'}", "--out", str(tmp_path / "app"), "--no-measure"]
    assert main(["pack", *words]) == 0
    assert "memory was not measured" in capsys.readouterr().out
    index = read_index(tmp_path / "app")
    assert (index.added_up, index.one_at_a_time, index.together) == (None, None, None)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=5))
def test_memory_is_one_process_and_what_each_bundle_adds(sizes: list[tuple[int, int]]) -> None:
    bundles = {
        f"b{number}": Packed("tensors", "0" * 64, 1, Memory(process, process + added, process))
        for number, (process, added) in enumerate(sizes)
    }
    index = Index(schema=1, edgepress="0", bundles=bundles).sealed()
    assert index.is_sealed
    assert index.added_up == max(process for process, _ in sizes) + sum(added for _, added in sizes)
    assert index.one_at_a_time == max(process + added for process, added in sizes)


@given(st.text(max_size=70))
def test_any_name_is_kept_by_every_file_system_or_refused(name: str) -> None:
    try:
        check_name(name)
    except InputError:
        return
    assert name == name.lower()
    assert name.isascii()
    assert not set(name) & set('/\\:*?"<>|\0 ')
    assert not name.startswith(".")
