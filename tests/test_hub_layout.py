"""Which links of the hub's cache are followed, and which are not."""

import os
from pathlib import Path, PurePosixPath

import pytest

from edgepress.disk.hub_layout import is_beside, is_hub_link, resolve_inside
from edgepress.errors import InputError

ETAG = "0123456789abcdef" * 4


def snapshot_of(repository: Path) -> Path:
    """A repository in the hub's cache with one file, and one in a folder."""
    snapshot, blobs = repository / "snapshots" / ("1" * 40), repository / "blobs"
    (snapshot / "cpu").mkdir(parents=True)
    blobs.mkdir()
    (blobs / ETAG).write_text("content")
    (snapshot / "file").symlink_to(f"../../blobs/{ETAG}")
    (snapshot / "cpu" / "file").symlink_to(f"../../../blobs/{ETAG}")
    return snapshot


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return snapshot_of(tmp_path / "models--org--name")


@pytest.mark.parametrize("name", ["file", "cpu/file"])
def test_a_link_into_the_blobs_of_its_own_repository_is_followed(snapshot: Path, name: str) -> None:
    blob = snapshot.parent.parent / "blobs" / ETAG
    assert resolve_inside(snapshot / name, snapshot) == blob
    assert resolve_inside(snapshot / name, (snapshot / name).parent) == blob  # a bundle in a folder of the repository
    assert is_hub_link(snapshot / name, snapshot)


def test_blobs_that_were_moved_to_another_disk_are_followed(snapshot: Path, tmp_path: Path) -> None:
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(tmp_path / "disk")
    blobs.symlink_to(tmp_path / "disk")
    assert resolve_inside(snapshot / "file", snapshot) == tmp_path / "disk" / ETAG


def test_moved_blobs_do_not_open_a_folder_of_other_files(snapshot: Path, tmp_path: Path) -> None:
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(tmp_path / "home")
    (tmp_path / "home" / "id_rsa").write_text("secret")
    blobs.symlink_to(tmp_path / "home")
    (snapshot / "key").symlink_to("../../blobs/id_rsa")
    with pytest.raises(InputError, match=r"key is a link out of its directory, to .*id_rsa"):
        resolve_inside(snapshot / "key", snapshot)


def test_a_repository_that_is_a_link_itself_is_followed(tmp_path: Path) -> None:
    snapshot_of(tmp_path / "disk")
    repository = tmp_path / "models--org--name"
    repository.symlink_to(tmp_path / "disk")
    (snapshot,) = (repository / "snapshots").iterdir()
    assert resolve_inside(snapshot / "file", snapshot) == tmp_path / "disk" / "blobs" / ETAG
    named = tmp_path / "mine"
    named.symlink_to(snapshot)
    with pytest.raises(InputError):  # neither name nor place is of the cache any more
        resolve_inside(named / "file", named)


def test_a_snapshot_that_the_user_linked_to_is_followed(snapshot: Path, tmp_path: Path) -> None:
    named = tmp_path / "mine"
    named.symlink_to(snapshot)
    assert resolve_inside(named / "file", named).name == ETAG
    assert is_hub_link(named / "cpu" / "file", named)


def test_blobs_that_repositories_share_are_followed_where_the_marker_is(snapshot: Path, tmp_path: Path) -> None:
    shared = tmp_path / "blobs"
    (shared / "ab").mkdir(parents=True)
    blob = snapshot.parent.parent / "blobs" / ETAG
    blob.rename(shared / "ab" / f"ab{ETAG[2:]}")
    blob.symlink_to(f"../../blobs/ab/ab{ETAG[2:]}")
    with pytest.raises(InputError):
        resolve_inside(snapshot / "file", snapshot)
    (shared / ".huggingface-shared-blobs").write_text("1\n")
    assert resolve_inside(snapshot / "file", snapshot) == shared / "ab" / f"ab{ETAG[2:]}"


def test_a_link_to_anything_else_is_refused_with_both_names(snapshot: Path, tmp_path: Path) -> None:
    other = snapshot_of(tmp_path / "models--org--other")
    (tmp_path / "outside").write_text("x")
    for number, target in enumerate((tmp_path / "outside", other / "file", other.parent.parent / "blobs" / ETAG)):
        path = snapshot / f"link{number}"
        path.symlink_to(target)
        assert not is_hub_link(path, snapshot)
        with pytest.raises(InputError) as caught:
            resolve_inside(path, snapshot)
        assert str(path) in str(caught.value)
        assert str(target.resolve()) in str(caught.value)


def test_what_looks_like_the_cache_and_is_not_is_refused(tmp_path: Path) -> None:
    snapshot = snapshot_of(tmp_path / "project")
    with pytest.raises(InputError, match="out of its directory"):
        resolve_inside(snapshot / "file", snapshot)
    beside = tmp_path / "models--org--name" / "blobs"
    beside.mkdir(parents=True)
    (beside / ETAG).write_text("x")
    folder = tmp_path / "models--org--name" / "bundle"
    folder.mkdir()
    (folder / "file").symlink_to(f"../blobs/{ETAG}")
    with pytest.raises(InputError, match="out of its directory"):
        resolve_inside(folder / "file", folder)


def test_files_and_links_inside_a_folder_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert resolve_inside(tmp_path / "real", tmp_path) == tmp_path / "real"
    assert resolve_inside(tmp_path / "link", tmp_path) == tmp_path / "real"
    assert not is_hub_link(tmp_path / "link", tmp_path)


@pytest.mark.parametrize("target", ["link", "nothing", "."])
def test_links_that_name_no_file_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(InputError, match="link"):
        resolve_inside(tmp_path / "link", tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a file"):
        resolve_inside(tmp_path / "pipe", tmp_path)


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        (".gitattributes", True),
        ("README.md", True),
        ("LICENSE", True),
        ("LICENSE.txt", True),
        (".cache/huggingface/download/model.onnx.metadata", True),
        (".cache/huggingface/.gitignore", True),
        (".cache/other", False),
        ("cpu/README.md", False),
        ("README.md.exe", False),
        ("tokenizer.json", False),
    ],
)
def test_what_belongs_to_the_repository_and_not_to_the_model(name: str, beside: bool) -> None:
    assert is_beside(PurePosixPath(name)) is beside
