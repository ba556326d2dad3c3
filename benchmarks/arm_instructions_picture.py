"""The picture of arm_instructions.py: what a token of the largest shape takes, by tool and form, in three parts."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from arm_scaling import SPLIT, Samples, named, scaled
from common import group

MODEL = SPLIT[0]
CLASSES = {
    "products of weights": ("matmul", "mul_mat"),
    "attention": ("attention", "flash_attn"),
    "everything else": ("",),
}
"""What a kind of node is counted as: the first whose words are in its name, in small letters."""

_COLOURS = ("#c2410c", "#1d4ed8", "#a8a29e")
_WIDTH, _ROW, _TOP, _BOTTOM, _LEFT, _RIGHT, _GAP = 680.0, 15.0, 42.0, 30.0, 190.0, 60.0, 34.0  # points
_FONT = 8.0
_MILLION = 1e6


def class_of(operator: str) -> str:
    """Which of ``CLASSES`` a kind of node belongs to."""
    return next(name for name, words in CLASSES.items() if any(word in operator.lower() for word in words))


def shares(of_case: Samples) -> dict[str, float]:
    """Instructions a token of each class, of the whole model; one that tells no operators is all in the last."""

    def of(name: str, sample: Mapping[str, Any]) -> float:
        operators = sample["operators"] or {"": sample["instructions"]}
        return sum(count for one, count in operators.items() if class_of(one) == name) / float(sample["tokens"])

    return {name: scaled(of_case, partial(of, name)) for name in CLASSES}


def draw(samples: Samples, path: Path) -> None:
    """Write a panel for each processor and call, a bar for each tool and form; the same samples give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "edgepress"
    mpl.rcParams["svg.fonttype"] = "none"
    mine = [sample for sample in samples if sample["model"] == MODEL]
    panels = group(sorted(mine, key=lambda sample: sample["tokens"]), "tokens", "cpu", "context")
    sizes = [_ROW * len(group(of_panel, "tool", "form")) for of_panel in panels.values()]
    height = _TOP + _BOTTOM + sum(sizes) + _GAP * len(sizes)
    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
    top = height - _TOP
    for ((tokens, cpu, context), of_panel), size in zip(panels.items(), sizes, strict=True):
        place = (_LEFT / _WIDTH, (top - size) / height, (_WIDTH - _LEFT - _RIGHT) / _WIDTH, size / height)
        axes = figure.add_axes(place)
        what = "a decoded token" if tokens == 1 else f"each of {tokens} tokens at once"
        axes.set_title(f"{cpu}: {what}, after {context:,}", loc="left", fontsize=_FONT, fontweight="bold")
        _draw_panel(axes, of_panel)
        top -= size + _GAP
    names = figure.axes[0].get_legend_handles_labels()
    at = (_LEFT / _WIDTH, 1 - 24 / height)
    figure.legend(*names, loc="lower left", fontsize=_FONT, ncols=len(CLASSES), bbox_to_anchor=at, frameon=False)
    figure.text(_LEFT / _WIDTH, 8 / height, f"millions of instructions a token, {named(MODEL)}", fontsize=_FONT)
    figure.savefig(path, metadata={"Date": None})


def _draw_panel(axes: Any, of_panel: Samples) -> None:
    """Bars of one call, one below the other, with their lengths beside them."""
    cases = group(of_panel, "tool", "form")
    for row, of_case in enumerate(cases.values()):
        left = 0.0
        for (name, count), colour in zip(shares(of_case).items(), _COLOURS, strict=True):
            axes.barh(row, count / _MILLION, left=left, color=colour, label=name if row == 0 else None, height=0.7)
            left += count / _MILLION
        axes.text(left, row, f" {left:.2f}", va="center", fontsize=_FONT)
    axes.set_yticks(range(len(cases)), [f"{tool} {form}" for tool, form in cases], fontsize=_FONT)
    axes.invert_yaxis()
    axes.set_xticks([])
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
