"""What the distribution says about itself: its licence, what is bundled, one version."""

import shutil
import subprocess
import sys
from email.parser import Parser
from pathlib import Path

import pytest

import edgepress

ROOT = Path(__file__).resolve().parents[1]
_BUILD = "from setuptools.build_meta import prepare_metadata_for_build_wheel as make; print(make('made'))"


def test_metadata_has_the_licence_the_notice_and_the_packages_version(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "src" / "edgepress").mkdir(parents=True)
    shutil.copy(ROOT / "src" / "edgepress" / "__init__.py", tmp_path / "src" / "edgepress")
    (tmp_path / "made").mkdir()
    told = subprocess.run(
        [sys.executable, "-c", _BUILD], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    made = tmp_path / "made" / told.splitlines()[-1]
    metadata = Parser().parsestr((made / "METADATA").read_text(encoding="utf-8"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert metadata["Version"] == edgepress.__version__
    assert (made / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_licence_is_the_whole_apache_licence() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    sections = [line.strip() for line in text.splitlines() if line.strip()[:2].rstrip(".").isdigit()]
    assert [int(line.split(".")[0]) for line in sections if line[1:2] == "."] == list(range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_notice_names_all_data_in_the_package() -> None:
    """A model or a table that is added without a word about where it comes from fails here."""
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    data = {".safetensors", ".json", ".onnx", ".npz", ".bin", ".txt", ".jsonl"}
    shipped = {
        path.relative_to(ROOT)
        for folder in ("exporter", "runtime", "targets")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in data and path.name != "CMakeLists.txt"
    }
    assert shipped, "the demo model is shipped at least"
    for path in shipped:
        assert path.parent.as_posix() in notice, path
        assert path.name in notice or path.parent.as_posix() == "exporter/demo/model", path
