"""Every committed picture can be read: words lie beside each other, inside the picture, no wider than a page."""

import math
import re
import runpy
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PICTURES = sorted(DOCS.rglob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
PAGE = 920  # pixels: a page of text on a code host
CHARACTER, ASCENT, DESCENT = 0.55, 0.75, 0.2  # of the font size: a usual sans-serif

Box = tuple[float, float, float, float]  # left, top, right, bottom


def size(root: ET.Element) -> tuple[float, float, float, float]:
    """The picture's width and height in its own units, its width in pixels, and its font size."""
    width = re.fullmatch(r"([\d.]+)(pt|px)?", root.attrib["width"])
    assert width is not None
    pixels = float(width[1]) * (4 / 3 if width[2] == "pt" else 1)
    font = re.search(r"font-size:\s*([\d.]+)px", root.get("style", ""))
    box = root.get("viewBox")
    across, down = map(float, box.split()[2:]) if box else (float(width[1]), float(root.attrib["height"]))
    return across, down, pixels, float(font[1]) if font else 16.0


def words(root: ET.Element) -> Iterator[tuple[str, Box]]:
    """Every text, and about where it lies."""
    *_, usual = size(root)
    for text in root.iter(f"{SVG}text"):
        style = text.get("style", "")
        found = re.search(r"font(?:-size)?:[^;]*?([\d.]+)px", style)
        font = float(found[1]) if found else usual
        spoken = "".join(text.itertext()).strip()
        turned = re.search(r"rotate\((-?[\d.]+)", text.get("transform", ""))
        if not spoken or "x" not in text.attrib or (turned and abs(float(turned[1])) > 1):
            continue  # axis titles that are turned, and powers of ten, stand outside the frame
        anchor = re.search(r"text-anchor:\s*(\w+)", style)
        where = anchor[1] if anchor else text.get("text-anchor", "start")
        width = len(spoken) * CHARACTER * font
        left = float(text.attrib["x"]) - {"start": 0.0, "middle": width / 2, "end": width}[where]
        base = float(text.attrib["y"])
        yield spoken, (left, base - ASCENT * font, left + width, base + DESCENT * font)


def test_there_are_pictures() -> None:
    assert DOCS / "accuracy.svg" in PICTURES
    assert len(PICTURES) > 10


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_no_words_of_a_committed_picture_lie_on_others(picture: Path) -> None:
    root = ET.parse(picture).getroot()
    across, down, pixels, _ = size(root)
    assert pixels <= PAGE
    found = list(words(root))
    assert len(found) >= 5
    for spoken, (left, top, right, bottom) in found:
        assert left >= -1, spoken
        assert top >= -1, spoken
        assert right <= across + 1, spoken
        assert bottom <= down + 1, spoken
    for (one, a), (other, b) in combinations(found, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{one!r} lies on {other!r}"


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_words_that_are_turned_end_inside_the_picture(picture: Path) -> None:
    root = ET.parse(picture).getroot()
    across, down, _, usual = size(root)
    for text in root.iter(f"{SVG}text"):
        turned = re.fullmatch(r"rotate\((-?[\d.]+) ([\d.]+) ([\d.]+)\)", text.get("transform", ""))
        if not turned or text.get("text-anchor", "start") != "start" or "text-anchor" in text.get("style", ""):
            continue
        angle, x, y = map(float, turned.groups())
        font = re.search(r"font-size:\s*([\d.]+)px", text.get("style", ""))
        spoken = "".join(text.itertext()).strip()
        length = len(spoken) * CHARACTER * (float(font[1]) if font else usual)
        ends = x + length * math.cos(math.radians(angle)), y + length * math.sin(math.radians(angle))
        assert 0 <= ends[0] <= across, spoken
        assert 0 <= ends[1] <= down, spoken


def lines(root: ET.Element) -> Iterator[tuple[float, float]]:
    """Points along every curve of a picture of losses, a pixel apart."""
    for curve in root.iter(f"{SVG}polyline"):
        corners = [tuple(map(float, corner.split(","))) for corner in curve.attrib["points"].split()]
        for (x, y), (to_x, to_y) in pairwise(corners):
            steps = max(1, int(max(abs(to_x - x), abs(to_y - y))))
            for i in range(steps + 1):
                yield x + (to_x - x) * i / steps, y + (to_y - y) * i / steps


@pytest.mark.parametrize("picture", [path for path in PICTURES if path.parent.name == "pruning"], ids=lambda p: p.stem)
def test_no_curve_goes_through_words(picture: Path) -> None:
    root = ET.parse(picture).getroot()
    points = list(lines(root))
    assert points
    for spoken, (left, top, right, bottom) in words(root):
        assert not any(left < x < right and top < y < bottom for x, y in points), spoken


def test_the_readmes_picture_is_what_its_script_draws() -> None:
    assert (DOCS / "journey.svg").read_text(encoding="utf-8") == runpy.run_path(str(DOCS / "journey.py"))["draw"]()
