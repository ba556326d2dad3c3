"""The page: what was measured on what, the figures with intervals, then each picture with its table."""

from html import escape
from pathlib import Path

from edgepress.disk.files import atomic_file
from edgepress.runtime.profile.page.pictures import PICTURES, Picture
from edgepress.runtime.profile.records import Profile
from edgepress.runtime.profile.summary import figures

_STYLE = """
:root { --ink: #1f2430; --grey: #5a6376; --line: #dfe3ea; --paper: #ffffff;
  --c0: #1f6fb2; --c1: #b3541e; --c2: #2e7d4f; --c3: #7b4fa3; --c4: #a3243b; --c5: #4f6d7a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --grey: #a3acbd; --line: #3a4150; --paper: #14171d;
    --c0: #6fb1e8; --c1: #e39a6b; --c2: #7cc79b; --c3: #bf9be0; --c4: #e58293; --c5: #9fbcc9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 46rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.4rem; line-height: 1.25; } h2 { font-size: 1.1rem; margin: 2rem 0 .25rem; } p { margin: .25rem 0;
color: var(--grey); } svg {
width: 100%; height: auto; display: block; } details { margin: .25rem 0; } table { border-collapse: collapse; width:
100%; font-size: .85rem; } th, td { text-align: left; padding: .2rem .5rem;
  border-bottom: 1px solid var(--line); } .wide { overflow-x: auto; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; } .tick, .axis, .note { fill: var(--grey); } .grid {
stroke: var(--line); } .level { stroke: var(--grey); stroke-dasharray: 4 3; } .line { fill: none; stroke-width: 1.8;
stroke: currentColor; } .dot, .key { fill: currentColor; } .bar { fill: var(--c0); } .c0 { color: var(--c0); } .c1 {
color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color:
var(--c5); }
"""


def render(profile: Profile) -> str:
    """The page as one text: no script, no link to anything outside."""
    header, description = profile.header, profile.header.description
    name = description.get("model") or description.get("soc") or description.get("architecture")
    title = f"{header.bundle} on {name}"
    facts = [
        ("bundle", f"{header.bundle}, {header.bundle_bytes / 1e6:.1f} MB, {(header.bundle_hash or 'no hash')[:16]}"),
        (
            "device",
            f"{header.device}: {', '.join(str(v) for v in (description.get('soc'), description.get('os')) if v)}",
        ),
        ("versions", ", ".join(f"{key} {value}" for key, value in header.versions.items())),
        ("measured", header.started),
    ]
    pictures = [picture for draw in PICTURES if (picture := draw(profile)) is not None]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>",
        _table((("", ""), *facts), caption="What was measured, on what"),
        "<h2>Figures</h2><p>With 95 % intervals over rounds, each a fresh process.</p>",
        _table((("figure", "value"), *figures(profile)), caption="Figures"),
        *(_section(picture) for picture in pictures),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(picture: Picture) -> str:
    return "\n".join(
        [
            f"<section><h2>{escape(picture.heading)}</h2><p>{escape(picture.about)}</p>",
            picture.drawing,
            f"<details><summary>Figures</summary>{_table(picture.table, caption=picture.heading)}</details></section>",
        ]
    )


def _table(rows: tuple[tuple[str, ...], ...], *, caption: str) -> str:
    head, *body = rows
    lines = [f'<div class="wide"><table><caption hidden>{escape(caption)}</caption>']
    if any(head):
        lines.append("<thead><tr>" + "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head) + "</tr></thead>")
    lines.append("<tbody>")
    for first, *others in body:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def write_page(profile: Profile, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        InputError: the folder cannot be written.

    """
    with atomic_file(path, replace=True) as file:
        file.write_text(render(profile), encoding="utf-8")
