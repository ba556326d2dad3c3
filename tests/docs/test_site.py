"""The site is built from the pages and docstrings without a warning, and its pages show what was meant."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from pages import ROOT

RAW = re.compile(r"\*\*|\]\(|^\s*\|.*\|\s*$|```|<!--|^#+ |:(class|func|meth|mod|data|attr):|::$", re.MULTILINE)
"""Markdown, or reStructuredText of docstrings, that was not turned into anything."""


class Shown(HTMLParser):
    """What a page shows: text outside code, pictures, and the number of cells in each row of each table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.pictures, self.tables = "", list[str](), list[list[int]]()
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in {"code", "script", "style"}
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in {"td", "th"}:
            self.tables[-1][-1] += int(dict(attributes).get("colspan") or 1)
        elif tag == "img":
            self.pictures.append(dict(attributes)["src"] or "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in {"code", "script", "style"}

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` does."""
    if not all(find_spec(name) for name in ("mkdocs", "material", "mkdocstrings_handlers")):
        pytest.skip("mkdocs-material or mkdocstrings is not installed: pip install 'edgepress[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "WARNING" not in made.stderr
    return out


def test_the_site_has_the_readme_and_the_docstrings(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="recipes.html"' in home
    assert 'src="journey.svg"' in home
    api = (site / "api.html").read_text(encoding="utf-8")
    assert 'id="edgepress.runtime.model.load"' in api
    assert 'id="edgepress.exporter.export.export"' in api


def test_pages_have_no_raw_markdown_no_broken_table_and_every_picture(site: Path) -> None:
    for path in site.glob("*.html"):
        shown = Shown(path.read_text(encoding="utf-8"))
        assert not [line for line in shown.text.splitlines() if RAW.search(line)], path.name
        assert not [rows for rows in shown.tables if len(set(rows)) != 1], path.name
        assert not [name for name in shown.pictures if not (site / name).is_file()], path.name
        assert "\\|" not in path.read_text(encoding="utf-8"), f"{path.name}: shown so in a table's code"


def test_what_a_page_shows_is_found() -> None:
    shown = Shown(
        '<p>**a** <code>**b**</code> <img src="c.svg"></p><table><tr><th>d<th>e<tr><td colspan=2>f<tr><td>g</table>'
    )
    assert "".join(shown.text.split()) == "**a**defg"
    assert (shown.pictures, shown.tables) == (["c.svg"], [[2, 2, 1]])
    assert all(map(RAW.search, ("**a**", "[a](b)", "| a | b |", "<!-- a", "## a", ":class:`a`")))
    assert not RAW.search("a · b (c) [d] |e| # f")
