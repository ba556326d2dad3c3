"""Every sample says at which commit it was taken."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(name="common")
def _common(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("common")


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    return subprocess.run(["git", "-C", str(folder), *names, *words], check=True, capture_output=True, text=True).stdout


def test_a_commit_is_named_and_what_was_changed_since(common: ModuleType, tmp_path: Path) -> None:
    assert common.commit(tmp_path) is None
    git(tmp_path, "init")
    assert common.commit(tmp_path) is None, "there is no commit yet"
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "a.jsonl").write_text("1\n")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    assert common.commit(tmp_path) == head
    (results / "a.jsonl").write_text("2\n")
    assert common.commit(tmp_path) == head, "results are what a benchmark writes"
    (tmp_path / "new.py").write_text("1\n")
    assert common.commit(tmp_path) == f"{head}-dirty"


def test_no_git_is_no_commit(common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert common.commit(tmp_path) is None


def test_each_sample_has_the_commit_of_its_run(
    common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, import_script: Callable[[str], ModuleType]
) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(common, "COMMIT", "b" * 40)
    path = common.save("kind", [{"x": 1}, {"x": 2, "commit": "a" * 40}, {"x": 3, "commit": None}])
    header, *samples = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert header["host"]["commit"] == "b" * 40
    assert [sample["commit"] for sample in samples] == ["b" * 40, "a" * 40, None]
    # samples that another run leaves keep theirs, and those from before commits were noted have none
    earlier = import_script("subjects").earlier
    header["host"].pop("commit")
    lines = [header, {"model": "demo", "commit": "c" * 40}, {"model": "demo"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [sample["commit"] for sample in earlier(path, ["tiny1m"], whole=True)] == ["c" * 40, None]
