"""The site is built from the pages and docstrings without a warning, so without a link that leads nowhere."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from pages import ROOT


@pytest.mark.skipif(
    not all(find_spec(name) for name in ("mkdocs", "material", "mkdocstrings_handlers")),
    reason="mkdocs-material or mkdocstrings is not installed: pip install 'edgepress[docs]'",
)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "WARNING" not in made.stderr
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="recipes.html"' in home
    assert 'src="journey.svg"' in home
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert 'id="edgepress.runtime.model.load"' in api
    assert 'id="edgepress.exporter.export.export"' in api
