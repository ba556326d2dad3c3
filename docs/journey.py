"""Draw docs/journey.svg: the way of a model from its checkpoint to a phone.

python docs/journey.py
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path

PICTURE = Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT = 900, 364
INK, LINE, PAPER = "#1f2430", "#8a93a5", "#ffffff"
BLUE, GREEN, SAND = "#e8effa", "#e6f4ea", "#faf3e3"

LINE_HEIGHT = 17  # of small words; titles take a little more


def box(left: float, top: float, width: float, fill: str, title: str, *words: str) -> Iterator[str]:
    """A rounded box, its title in bold and a line of small words for each of ``words``."""
    height = 30 + LINE_HEIGHT * len(words)
    yield f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="7" fill="{fill}" stroke="{LINE}"/>'
    yield text(left + 12, top + 20, title, 14, weight="600")
    for i, line in enumerate(words):
        yield text(left + 12, top + 20 + LINE_HEIGHT * (i + 1), line, 12)


def text(x: float, y: float, spoken: str, size: float, *, weight: str = "400", fill: str = INK) -> str:
    """One line of words that begins at ``x``, ``y``."""
    style = f"font-size: {size:g}px; font-weight: {weight}; fill: {fill}"
    return f'<text x="{x:g}" y="{y:g}" style="{style}">{escape(spoken)}</text>'


def arrow(from_x: float, from_y: float, to_x: float, to_y: float) -> str:
    """A line with a head at its end."""
    return f'<path d="M{from_x:g} {from_y:g} L{to_x:g} {to_y:g}" stroke="{INK}" fill="none" marker-end="url(#head)"/>'


def column(left: float, title: str) -> str:
    """The heading of a column."""
    return text(left, 34, title, 13, weight="600", fill="#5a6376")


def parts() -> Iterator[str]:
    """Everything between the picture's frame, column by column."""
    yield column(20, "You have")
    yield from box(20, 50, 178, BLUE, "Checkpoint", "Hugging Face form,", "safetensors")
    yield from box(20, 134, 178, BLUE, "Recipe", "a preset or a TOML file")
    yield from box(20, 201, 178, BLUE, "Text", "like what the model", "will see (optional)")

    yield column(246, "On a build machine: export")
    yield from box(246, 50, 216, SAND, "Plan", "each tensor: bits, block,", "and why; nothing read yet")
    yield from box(246, 134, 216, SAND, "Prune and calibrate", "fewer weights; rounding", "that has seen your text")
    yield from box(246, 218, 216, SAND, "Write and check", "packed weights, ONNX graph,", "compared with the original")
    for y in (114, 198):
        yield arrow(354, y + 1, 354, y + 18)
    for y in (92, 157, 233):
        yield arrow(199, y, 244, y)

    yield column(510, "Bundle")
    yield from box(510, 50, 168, GREEN, "model.onnx", "runs in onnxruntime")
    yield from box(510, 105, 168, GREEN, "model.onnx.data", "weights, mapped")
    yield from box(510, 160, 168, GREEN, "tokenizer.json")
    yield from box(510, 198, 168, GREEN, "manifest.json", "what was done, hashes")
    yield from box(510, 253, 168, GREEN, "qnn-htp/ …", "what a target needs")
    yield arrow(463, 174, 508, 174)

    yield column(726, "On the device")
    yield from box(726, 50, 154, BLUE, "Phone, board", "onnxruntime's CPU", "kernels")
    yield from box(726, 134, 154, BLUE, "NPU", "Qualcomm's HTP,", "compiled ahead")
    yield from box(726, 218, 154, BLUE, "run, eval, bench", "text, accuracy, time,", "memory, energy")
    yield arrow(679, 174, 724, 174)

    yield text(
        20, 318, "Before: edgepress check says where each node of a graph would run on a target, and why not.", 13
    )
    yield text(20, 347, "After: edgepress verify recomputes every hash, edgepress inspect says what is inside.", 13)


def draw() -> str:
    """The picture as SVG; the same bytes each time."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, Helvetica, Arial, sans-serif">'
    )
    marker = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>'
    )
    paper = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="{PAPER}"/>'
    return "\n".join([head, marker, paper, *parts(), "</svg>\n"])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
