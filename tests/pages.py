"""The README and the pages of docs/ as data: their code blocks, links, headings and commands within sentences."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "console", "python", "toml", "json", "text", "mermaid"}
"""What a block may be; ``text`` is no code."""

_FENCE = re.compile(
    r"^(?:<!-- only parsed by the tests: (?P<reason>[^\n]+) -->\n)?```(?P<info>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A code block of ``page`` that begins at ``line``; ``title`` is the file that it says it is.

    ``only_parsed`` is why the tests do not run it, empty where they do.
    """

    page: str
    line: int
    language: str
    title: str
    text: str
    only_parsed: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}:{self.language}"


def name(page: Path) -> str:
    """The page's path from the checkout on."""
    return page.relative_to(ROOT).as_posix()


def blocks() -> list[Block]:
    """Every code block of every page, in order."""
    return [block for page in PAGES for block in blocks_in(page.read_text(encoding="utf-8"), name(page))]


def blocks_in(text: str, page: str) -> Iterator[Block]:
    """Yield the code blocks of a page's ``text``."""
    for fence in _FENCE.finditer(text):
        language, _, rest = fence["info"].partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        line = text.count("\n", 0, fence.start("info")) + 1
        yield Block(page, line, language or "text", title[1] if title else "", fence["text"], fence["reason"] or "")


def prose(text: str) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", text)


def commands_in_sentences(text: str) -> list[str]:
    """Code within the sentences and tables of a page that is a call of ``edgepress`` with something after it."""
    return re.findall(r"`(edgepress [^`]+)`", prose(text))


def links(text: str) -> list[str]:
    """Where the links and pictures of a page lead that are no addresses."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(text)))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(text: str) -> set[str]:
    """The names by which headings of a page are linked, as code hosts and the site make them."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).strip().lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}
