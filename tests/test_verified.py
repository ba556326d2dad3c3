"""A bundle is hashed before it is first used, and again when a file has changed; links are refused everywhere."""

import errno
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from bundles import sign
from tiny_models import save

from edgepress.bundle import manifest, verified
from edgepress.bundle.manifest import bundle_hash
from edgepress.bundle.verified import verify_first
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import load

LATE = 10**12  # nanoseconds: nothing is young


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    export(save("llama", directory / "checkpoint"), out=directory / "bundle", recipe="int4")
    return directory / "bundle"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "_verified_here", {})
    return shutil.copytree(exported, tmp_path / "bundle")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed, as they are; files are never too young to be trusted by their stamp."""
    names: list[str] = []
    hash_file = manifest.sha256_file

    def counted(path: Path, *rest: object) -> str:
        names.append(path.name)
        return hash_file(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(manifest, "sha256_file", counted)
    monkeypatch.setattr("edgepress.disk.stamps.YOUNG", -LATE)
    return names


def write_same_times(path: Path, content: bytes) -> None:
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def flip(path: Path, position: int = 1000) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 0x10
    write_same_times(path, content)


def use(verb: str, bundle: Path, *words: str) -> int:
    given = {
        "run": ["--prompt", "To be", "--max-tokens", "4"],
        "bench": ["--repetitions", "1", "--warmup", "0", "--prompt-lengths", "4", "--decode-tokens", "2"],
        "eval": ["--text", str(bundle.parent / "text.txt"), "--context", "16", "--stride", "8"],
        "inspect": [],
        "check": ["--target", "arm64-cpu"],
        "prepare": [],
        "verify": [],
    }
    (bundle.parent / "text.txt").write_text("To be, or not to be, that is the question")
    threads = ["--threads", "1"] if verb in {"run", "bench", "eval"} else []
    return main([verb, str(bundle), *given[verb], *threads, *words])


def test_a_bundle_is_hashed_once(bundle: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    verify_first(bundle)
    assert {"model.onnx", "model.onnx.data", "tokenizer.json", "genai_config.json"} <= set(hashed)
    hashed.clear()
    verify_first(bundle)
    monkeypatch.setattr(verified, "_verified_here", {})  # as in another process
    verify_first(bundle)
    assert set(hashed) <= {"manifest.json"}


def test_inspect_says_whether_a_bundle_was_verified_and_hashes_no_data(
    bundle: Path, hashed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> tuple[bool, str]:
        assert main(["inspect", str(bundle), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["bundle"]["verified"]
        assert main(["inspect", str(bundle)]) == 0
        return found, capsys.readouterr().out

    found, printed = said()
    assert not found
    assert f"verified     not here, or a file has changed since; `edgepress verify {bundle}`" in printed
    verify_first(bundle)
    hashed.clear()
    found, printed = said()
    assert found
    assert "verified     yes, and no file has changed since" in printed
    flip(bundle / "model.onnx.data")
    found, printed = said()
    assert not found
    assert set(hashed) == {"manifest.json"}  # whose hash is the bundle's name


@pytest.mark.parametrize("name", ["model.onnx.data", "tokenizer.json", "genai_config.json", "manifest.json"])
def test_a_file_that_changed_is_hashed_again_though_its_size_and_time_are_the_same(
    bundle: Path, hashed: list[str], name: str
) -> None:
    verify_first(bundle)
    hashed.clear()
    write_same_times(bundle / name, (bundle / name).read_bytes())
    verify_first(bundle)
    assert "model.onnx.data" in hashed
    flip(bundle / name)
    with pytest.raises(InputError, match=name):
        verify_first(bundle)
    with pytest.raises(InputError, match=name):  # and it is not forgotten
        verify_first(bundle)


@pytest.mark.parametrize("verb", ["run", "bench", "eval"])
@pytest.mark.parametrize("words", [(), ("--no-prepare",)], ids=["prepared", "not prepared"])
@pytest.mark.parametrize("used", [False, True], ids=["first use", "later use"])
def test_no_figure_and_no_text_comes_from_a_corrupted_bundle(
    bundle: Path, verb: str, words: tuple[str, ...], used: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if used:
        assert use(verb, bundle, *words) == 0
        capsys.readouterr()
    data = bundle / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[200:5200] = os.urandom(5000)
    write_same_times(data, content)
    assert use(verb, bundle, *words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "is not as it was written: model.onnx.data: content changed" in output.err
    assert "edgepress verify" in output.err
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("verb", ["run", "bench", "eval", "inspect", "check", "prepare", "verify"])
@pytest.mark.parametrize("what", ["model.onnx", "manifest.json", "genai_config.json", "extra", "folder"])
def test_a_link_is_refused_by_every_verb(
    bundle: Path, verb: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if what == "folder":
        (bundle / what).symlink_to(bundle.parent, target_is_directory=True)
    else:
        outside = bundle.parent / f"outside-{what}"
        if what == "extra":
            outside.write_text("x")
        else:
            (bundle / what).rename(outside)
        (bundle / what).symlink_to(outside)
    assert use(verb, bundle) == (1 if verb == "verify" else 2)
    output = capsys.readouterr()
    assert output.out == ""
    assert what in output.err
    assert ("not in the manifest" in output.err) if verb == "verify" and what in {"extra", "folder"} else (
        "is a symbolic link" in output.err
    )  # fmt: skip


def test_blame_refuses_a_link(bundle: Path, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "model.onnx").rename(bundle.parent / "outside")
    (bundle / "model.onnx").symlink_to(bundle.parent / "outside")
    assert main(["blame", str(bundle), "--model", str(exported.parent / "checkpoint")]) == 2
    assert "is a symbolic link" in capsys.readouterr().err


def test_a_bundle_without_manifest_runs_and_is_said_to_be_unverified(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As onnxruntime-genai's builder makes them."""
    (bundle / "manifest.json").unlink()
    verified._say_unverified.cache_clear()
    with caplog.at_level(logging.WARNING):
        text = load(bundle, threads=1, prepared=False).generate("To be", max_tokens=4).text()
        load(bundle, threads=1, prepared=False)
    assert text
    assert [record.message for record in caplog.records] == [
        f"{bundle} is unverified: it has no manifest.json that says what must be in it"
    ]
    (bundle / "more.onnx").symlink_to("model.onnx")
    with pytest.raises(InputError, match=r"more\.onnx is a symbolic link"):
        load(bundle, threads=1, prepared=False)


def test_whoever_trusts_a_bundle_may_leave_the_hashing_out(bundle: Path, hashed: list[str]) -> None:
    load(bundle, threads=1, prepared=False, verify=False)
    assert hashed == []


def test_a_file_that_nothing_reads_does_not_keep_a_bundle_from_running(bundle: Path) -> None:
    (bundle / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    assert use("run", bundle) == 0
    assert use("verify", bundle) == 1


def test_notes_are_private_and_bound_to_the_bundles_hash(bundle: Path, hashed: list[str], tmp_path: Path) -> None:
    verify_first(bundle)
    folder = tmp_path / "cache" / "verified"
    assert folder.stat().st_mode & 0o777 == 0o700
    (note,) = folder.iterdir()
    assert note.stat().st_mode & 0o777 == 0o600
    record = json.loads(note.read_text())
    assert record["bundle"] == bundle_hash(bundle)
    record["bundle"] = "0" * 64
    note.write_text(json.dumps(record))
    verified._verified_here.clear()
    hashed.clear()
    verify_first(bundle)
    assert "model.onnx.data" in hashed


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"bundle": 1}', '{"stamps": {"a": 1}, "bundle": ""}', "\0"]
)
@pytest.mark.usefixtures("hashed")
def test_a_note_that_is_of_no_use_is_made_anew(bundle: Path, tmp_path: Path, content: str) -> None:
    verify_first(bundle)
    (note,) = (tmp_path / "cache" / "verified").iterdir()
    note.write_text(content)
    verified._verified_here.clear()
    verify_first(bundle)
    assert json.loads(note.read_text())["bundle"] == bundle_hash(bundle)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no such owners")
@pytest.mark.parametrize("what", ["folder", "note"])
def test_a_note_that_others_may_write_is_not_believed(
    bundle: Path, hashed: list[str], tmp_path: Path, what: str
) -> None:
    verify_first(bundle)
    folder = tmp_path / "cache" / "verified"
    (note,) = folder.iterdir()
    (folder if what == "folder" else note).chmod(0o777)
    verified._verified_here.clear()
    hashed.clear()
    verify_first(bundle)
    assert "model.onnx.data" in hashed


def test_a_file_that_was_just_written_is_not_trusted_by_its_stamp(
    bundle: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepress.disk.stamps.YOUNG", LATE)  # as if the clock of the file system ticked so slowly
    verify_first(bundle)
    hashed.clear()
    verify_first(bundle)
    assert "model.onnx.data" in hashed


def test_without_a_cache_a_bundle_is_hashed_at_each_start(bundle: Path, hashed: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    verify_first(bundle)
    verify_first(bundle)  # not twice in one process
    assert hashed.count("model.onnx.data") == 1
    verified._verified_here.clear()
    verify_first(bundle)
    assert hashed.count("model.onnx.data") == 2


@pytest.mark.usefixtures("hashed")
def test_the_oldest_notes_go(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "_KEPT", 2)
    for name in ("one", "two", "three"):
        verify_first(shutil.copytree(bundle, tmp_path / name))
    assert len(list((tmp_path / "cache" / "verified").iterdir())) == 2


# ---- a hash that was noted elsewhere ---------------------------------------------------------------------------------


def test_verify_and_export_print_the_bundles_hash(
    bundle: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert use("verify", bundle) == 0
    assert f"hash {bundle_hash(bundle)}" in capsys.readouterr().out
    assert (
        main(["export", str(exported.parent / "checkpoint"), "--recipe", "int4", "--out", str(tmp_path / "out")]) == 0
    )
    assert f"hash {bundle_hash(tmp_path / 'out')}" in capsys.readouterr().out


def test_verify_expect_finds_a_bundle_that_was_changed_with_its_manifest(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noted = bundle_hash(bundle)
    for written in (noted, noted.upper(), f"sha256:{noted}", f" {noted}\n"):
        assert use("verify", bundle, "--expect", written) == 0
    flip(bundle / "model.onnx.data")
    sign(bundle)
    capsys.readouterr()
    assert use("verify", bundle) == 0
    assert use("verify", bundle, "--expect", noted) == 1
    error = capsys.readouterr().err
    assert noted in error
    assert bundle_hash(bundle) in error


@pytest.mark.parametrize("text", ["", "abc", "0" * 63, "g" * 64, "sha1:" + "0" * 40])
def test_what_is_no_hash_is_not_compared(bundle: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert use("verify", bundle, "--expect", text) == 2
    assert "64 hexadecimal digits" in capsys.readouterr().err


# ---- bundles from the hub --------------------------------------------------------------------------------------------


def in_the_hubs_cache(bundle: Path, cache: Path, *, below: str = "") -> Path:
    """``bundle`` as snapshot_download leaves it in its cache, perhaps in a folder of the repository."""
    repository = cache / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / "0123456789012345678901234567890123456789"
    (bundle / ".gitattributes").write_text("*.onnx filter=lfs\n")
    (bundle / "README.md").write_text("# A model\n")
    for number, path in enumerate(sorted(path for path in bundle.rglob("*") if path.is_file())):
        blob = repository / "blobs" / f"{number:064x}"
        path.rename(blob)
        link = snapshot / below / path.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot / below


VERBS = ("verify", "run", "bench", "eval", "inspect", "check", "prepare")


@pytest.mark.parametrize("below", ["", "cpu/int4"], ids=["repository", "folder of it"])
@pytest.mark.parametrize("moved", [False, True], ids=["blobs", "blobs on another disk"])
def test_every_verb_takes_our_bundle_in_the_hubs_cache(bundle: Path, tmp_path: Path, below: str, moved: bool) -> None:
    found = in_the_hubs_cache(bundle, tmp_path / "hub", below=below)
    if moved:
        blobs = tmp_path / "hub" / "models--org--name" / "blobs"
        blobs.rename(tmp_path / "disk")
        blobs.symlink_to(tmp_path / "disk")
    for verb in VERBS:
        assert use(verb, found) == 0, verb
    assert load(found, threads=1).session.prepared.directory is not None


def test_every_verb_takes_our_bundle_whose_data_repositories_share(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As huggingface_hub 2.4 leaves large files that came by Xet."""
    found = in_the_hubs_cache(bundle, tmp_path / "hub")
    shared = tmp_path / "hub" / "blobs"
    (shared / "ab").mkdir(parents=True)
    (shared / ".huggingface-shared-blobs").write_text("1\n")
    blob = (found / "model.onnx.data").resolve()
    blob.rename(shared / "ab" / f"ab{62 * '0'}")
    blob.symlink_to(f"../../blobs/ab/ab{62 * '0'}")
    for verb in VERBS:
        assert use(verb, found) == 0, verb
    assert "without its prepared form" not in caplog.text


def test_our_bundle_in_the_hubs_cache_is_prepared_like_any_other(
    exported: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = in_the_hubs_cache(bundle, tmp_path / "hub", below="cpu/int4")
    assert use("prepare", found) == 0
    assert use("prepare", found, "--check") == 0
    assert use("prepare", exported, "--check") == 0  # the same form, byte for byte
    assert use("run", found) == 0
    assert "without its prepared form" not in capsys.readouterr().err


def test_a_check_of_a_form_that_finds_no_room_is_one_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert use("prepare", bundle) == 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edgepress.runtime.graph_file.repack.write", full)
    assert use("prepare", bundle, "--check") == 2
    assert "make room" in capsys.readouterr().err


def test_a_blob_that_was_changed_is_found(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = in_the_hubs_cache(bundle, tmp_path / "hub")
    assert use("run", found) == 0
    flip((found / "model.onnx.data").resolve())
    assert use("run", found) == 2
    assert use("verify", found) == 1
    assert "model.onnx.data: content changed" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_a_link_out_of_the_hubs_cache_is_refused(bundle: Path, tmp_path: Path, verb: str) -> None:
    found = in_the_hubs_cache(bundle, tmp_path / "hub")
    (tmp_path / "outside").write_bytes((found / "tokenizer.json").read_bytes())
    (found / "tokenizer.json").unlink()
    (found / "tokenizer.json").symlink_to(tmp_path / "outside")
    assert use(verb, found) == (1 if verb == "verify" else 2)


def test_every_verb_takes_our_bundle_downloaded_into_a_folder(bundle: Path) -> None:
    """As ``hf download --local-dir`` leaves it."""
    notes = bundle / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (bundle / ".cache" / "huggingface" / ".gitignore").write_text("*")
    (bundle / ".cache" / "huggingface" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (notes / "model.onnx.metadata").write_text("commit\netag\n1.0\n")
    (notes / "model.onnx.lock").write_text("")
    (bundle / ".gitattributes").write_text("*.onnx filter=lfs\n")
    (bundle / "README.md").write_text("# A model\n")
    for verb in VERBS:
        assert use(verb, bundle) == 0, verb
    (notes / "link").symlink_to(bundle.parent)
    assert use("run", bundle) == 2
    (notes / "link").unlink()
    (bundle / "other.bin").write_text("")
    assert use("verify", bundle) == 1


def test_what_else_a_bundle_is_held_against_runs_once_and_is_not_noted_when_it_fails(bundle: Path) -> None:
    tried = []

    def refuse(path: Path) -> None:
        tried.append(path)
        raise InputError("its tokenizer does not come to an end")

    for _ in range(2):
        with pytest.raises(InputError, match="does not come to an end"):
            verify_first(bundle, trial=refuse)
    assert tried == [bundle] * 2
