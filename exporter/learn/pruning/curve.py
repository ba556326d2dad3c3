"""The loss of a training as a picture: a small SVG, the same bytes each time, that needs no library."""

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 480, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 32, 40  # margins
_COLOURS = ("#c2410c", "#1d4ed8")
_STYLE = "font-family:sans-serif;font-size:11px"

Point = tuple[int, float | None, float]


def draw_curve(title: str, curve: Sequence[Point]) -> str:
    """``curve`` has the steps done, the mean loss since the point before (or None), and the loss on held-out text.

    Both axes are linear, and that of losses begins at 0.
    """
    steps = max(1, curve[-1][0])
    seen = [(step, loss) for step, loss, _ in curve if loss is not None]
    held_out = [(step, loss) for step, _, loss in curve]
    top = max(loss for _, loss in (*seen, *held_out)) or 1.0

    def place(step: float, loss: float) -> tuple[float, float]:
        x = _LEFT + step / steps * (_WIDTH - _LEFT - _RIGHT)
        return round(x, 1), round(_HEIGHT - _BOTTOM - loss / top * (_HEIGHT - _TOP - _BOTTOM), 1)

    def line(points: Sequence[tuple[int, float]], colour: str) -> str:
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in points))
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    def text(x: float, y: float, words: str, anchor: str = "start", colour: str = "#333") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'

    (left, bottom), (right, upper) = place(0, 0), place(steps, top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" style="{_STYLE}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<path d="M{left},{upper}V{bottom}H{right}" fill="none" stroke="#888"/>',
        text(_LEFT, 18, title),
        text(left - 6, bottom + 4, "0", "end"),
        text(left - 6, upper + 4, f"{top:.3g}", "end"),
        text(left, bottom + 16, "0", "middle"),
        text(right, bottom + 16, f"{steps} steps", "end"),
        line(seen, _COLOURS[0]),
        line(held_out, _COLOURS[1]),
        text(right, upper + 12, f"trained on: {seen[-1][1]:.4g}" if seen else "", "end", _COLOURS[0]),
        text(right, upper + 26, f"held out: {held_out[-1][1]:.4g}", "end", _COLOURS[1]),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"
