"""Pages are found, linked and short enough to be read; each link and anchor leads somewhere."""

import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT, anchors, links, name

README = ROOT / "README.md"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    missing = []
    for link in links(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8"))
        ):
            missing.append(link)
    assert not missing


def test_links_are_found_and_anchors_are_made_as_code_hosts_make_them() -> None:
    text = "# A `[b] c`: d, e\n\n[one](a.md#b) ![two](c.svg) [three](https://x.y) `[no](d.md)`\n"
    text += "\n```sh\n[no](e.md)\n```\n"
    assert links(text) == ["a.md#b", "c.svg"]
    assert anchors(text) == {"a-b-c-d-e"}


def test_the_readme_is_read_in_a_minute() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150


def test_the_readme_links_every_page_or_links_one_that_does() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"api.md"}  # which only the site shows

    def linked(path: Path) -> set[str]:
        return {Path(link.partition("#")[0]).name for link in links(path.read_text(encoding="utf-8"))}

    first = linked(README) & pages
    assert pages <= first | set().union(*(linked(ROOT / "docs" / page) for page in first))


def test_the_site_has_every_page_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r": ([\w-]+\.md)$", nav, re.MULTILINE)
    assert sorted(listed) == sorted([*(path.name for path in (ROOT / "docs").glob("*.md")), "index.md"])
