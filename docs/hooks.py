"""What mkdocs does differently here.

The README is the home page, links that leave docs/ are words, and roles of docstrings (``:class:`Name```) are names.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>(?P<short>~?)\.?(?P<name>[^<]+)</code>")
LINK = re.compile(r"(?<!!)\[(?P<words>[^\]]+)\]\((?P<path>[^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README as the home page; what it links to in docs/ lies beside it there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Links to files of the repository that are no pages become their words."""

    def kept(link: re.Match[str]) -> str:
        path = (Path(config.docs_dir) / page.file.src_uri).parent / link["path"]
        inside = path.resolve().is_relative_to(Path(config.docs_dir)) and path.exists()
        return link[0] if inside or link["path"] == "index.md" else link["words"]

    return LINK.sub(kept, markdown)


def on_page_content(html: str, **_: object) -> str:
    """Names in docstrings without their role, and without what they are in where a ``~`` asks for that; no ``::``."""
    html = html.replace("<p>::</p>", "").replace("::</p>", ":</p>")
    return ROLE.sub(
        lambda role: f"<code>{role['name'].rpartition('.')[2] if role['short'] else role['name']}</code>", html
    )
