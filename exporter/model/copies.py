"""Copies of the residual stream, in torch and in the graph, (…, copies, hidden): AltUp around a layer's blocks.

See :class:`~.description.AltUp` and :class:`~.description.Copies`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepress.exporter.model.description import AltUp, Copies
from edgepress.exporter.model.mixers import CONTRIB, GraphWriter

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Values

# ---- torch ----------------------------------------------------------------------------------------------------------


def started(copies: Copies, values: Values, x: Tensor) -> Tensor:
    """What is embedded, (…, hidden) → all copies one after the other, (…, copies · hidden)."""
    import torch

    from edgepress.exporter.model.operations import linear_forward

    others = linear_forward(copies.projection, values, x).reshape(*x.shape[:-1], -1, x.shape[-1])
    return torch.cat([x, _resized(others, x[..., None, :], copies.least).flatten(-2)], dim=-1)


def united(copies: Copies, values: Values, x: Tensor) -> Tensor:
    """Copies (…, copies, hidden) → the mean of what they project to, (…, hidden)."""
    import torch

    from edgepress.exporter.model.operations import linear_forward

    first = x[..., 0, :]
    others = [
        _resized(linear_forward(linear, values, x[..., index, :]), first, copies.least)
        for index, linear in enumerate(copies.back, 1)
    ]
    return torch.stack([first, *others]).mean(0)


def _resized(y: Tensor, x: Tensor, least: float) -> Tensor:
    """``y`` with the root mean square of ``x``; its own counts as √least at least."""
    own = y.square().mean(-1, keepdim=True).clamp_min(least)
    return y * (x.square().mean(-1, keepdim=True) / own).sqrt()


def predicted(altup: AltUp, values: Values, copies: Tensor) -> Tensor:
    """Copies (…, copies, hidden) before a layer → what they are predicted to be after it."""
    from edgepress.exporter.model.operations import linear_forward

    mixed = linear_forward(altup.prediction, values, _mixing(altup, values, copies[..., altup.active, :]))
    return copies + mixed.reshape(*mixed.shape[:-1], altup.copies, altup.copies) @ copies


def corrected(altup: AltUp, values: Values, copies: Tensor, y: Tensor) -> Tensor:
    """Predicted copies (…, copies, hidden), corrected by what the blocks made of the active one, (…, hidden)."""
    from edgepress.exporter.model.operations import linear_forward

    factors = 1 + linear_forward(altup.correction, values, _mixing(altup, values, y))  # (…, copies)
    return copies + factors[..., None] * (y - copies[..., altup.active, :])[..., None, :]


def to_copies(altup: AltUp, values: Values, copies: Tensor) -> Tensor:
    """What blocks that add to the copies read, (…, hidden)."""
    x = copies[..., altup.active, :]
    return x if altup.output_scale is None else x * values(altup.output_scale)


def _mixing(altup: AltUp, values: Values, x: Tensor) -> Tensor:
    """m(x), (…, copies)."""
    from edgepress.exporter.model.operations import linear_forward, norm_forward

    routed = linear_forward(altup.router, values, norm_forward(altup.router_norm, values, x))
    return (routed / x.shape[-1]).tanh()


# ---- graph: all of AltUp computes in float32, as few numbers mix the copies, on which every later layer depends ------


def write_started(g: GraphWriter, copies: Copies, x: str) -> str:
    """What is embedded (batch, sequence, hidden) → all copies.

    ::

        x ┬ projection ─ Reshape (…, copies − 1, hidden) ─ like x ─┐
          └ Unsqueeze ─────────────────────────────────────────────┴ Concat
    """
    hidden = copies.projection.weight.shape[1]
    shape = g.constant("copies_shape", np.array([0, 0, -1, hidden], np.int64))
    others = g.node("Reshape", [g.linear(copies.projection, x, normed=False), shape], "copies.others")
    first = g.node("Unsqueeze", [x, _axis(g, 2)], "copies.first")
    others = _like(g, copies, others, first, "copies.started", axis=3)
    return g.node("Concat", [first, others], "copies", axis=2)


def write_united(g: GraphWriter, copies: Copies, x: str) -> str:
    """All copies → the mean of the first and of what the others project to, (batch, sequence, hidden)."""
    first = _copy(g, x, 0, "copies.0")
    total = first
    for index, linear in enumerate(copies.back, 1):
        y = g.linear(linear, _copy(g, x, index, f"copies.{index}"), normed=False)
        total = g.node("Add", [total, _like(g, copies, y, first, f"copies.{index}", axis=2)], f"copies.{index}.total")
    share = g.constant("copies_share", np.array(1 / (1 + len(copies.back)), np.float32))
    return g.node("Mul", [total, share], "copies.united")


def _like(g: GraphWriter, copies: Copies, y: str, x: str, name: str, *, axis: int) -> str:
    """``y`` with the length of ``x`` along ``axis``: ``y · ‖x‖ / max(‖y‖, √(hidden · least))``."""
    hidden = copies.projection.weight.shape[1]
    least = g.constant("copies_least", np.array((hidden * copies.least) ** 0.5, np.float32))
    wanted, own = (
        g.node("ReduceL2", [value, _axis(g, axis)], f"{name}.{role}", keepdims=1)
        for role, value in (("wanted", x), ("length", y))
    )
    own = g.node("Max", [own, least], f"{name}.at_least")
    return g.node("Mul", [y, g.node("Div", [wanted, own], f"{name}.factor")], f"{name}.like")


def write_predicted(g: GraphWriter, altup: AltUp, name: str, copies: str) -> tuple[str, str]:
    """Copies before a layer → what they are predicted to be after it, and the active one of these.

    ::

        h_a ─ m ─ prediction ─ Reshape (…, copies, copies) ─┐
        h ──────────────────────────────────────────────────┴ MatMul ─ Add h
    """
    shape = g.constant("copies_square", np.array([0, 0, altup.copies, altup.copies], np.int64))
    with g.in_half(False):
        mixing = _write_mixing(g, altup, f"{name}.before", _copy(g, copies, altup.active, f"{name}.before.active"))
        shares = g.node("Reshape", [g.linear(altup.prediction, mixing), shape], f"{name}.shares")
        mixed = g.node("MatMul", [shares, copies], f"{name}.mixed")
        predicted = g.node("Add", [copies, mixed], f"{name}.predicted")
        return predicted, _copy(g, predicted, altup.active, f"{name}.active")


def write_corrected(g: GraphWriter, altup: AltUp, name: str, predicted: str, y: str) -> tuple[str, str]:
    """Predicted copies and what the blocks made of the active one → all copies, and what is read to add to them.

    ::

        y ┬ m ─ correction ─ Add 1 ─ Unsqueeze (…, copies, 1) ─┐
          └ Sub p_a ─ Unsqueeze (…, 1, hidden) ────────────────┴ Mul ─ Add p
    """
    one = g.constant("one_float", np.array(1, np.float32))
    with g.in_half(False):
        factors = g.linear(altup.correction, _write_mixing(g, altup, f"{name}.after", y))
        factors = g.node("Add", [factors, one], f"{name}.factors")
        factors = g.node("Unsqueeze", [factors, _axis(g, 3)], f"{name}.by_copy")
        moved = g.node("Sub", [y, _copy(g, predicted, altup.active, f"{name}.expected")], f"{name}.moved")
        moved = g.node("Unsqueeze", [moved, _axis(g, 2)], f"{name}.innovation")
        moved = g.node("Mul", [factors, moved], f"{name}.moved_by_copy")
        corrected = g.node("Add", [predicted, moved], f"{name}.corrected")
        read = _copy(g, corrected, altup.active, f"{name}.read")
        if altup.output_scale is not None:
            read = g.node("Mul", [read, g.weight(altup.output_scale)], f"{name}.scaled")
        return corrected, read


def write_added(g: GraphWriter, altup: AltUp, name: str, copies: str, y: str) -> str:
    """Copies with y (batch, sequence, hidden) added to all but the first."""
    others = np.ones((altup.copies, 1), np.float32)
    others[0] = 0
    with g.in_half(False):
        y = g.node("Unsqueeze", [y, _axis(g, 2)], f"{name}.unsqueezed")
        y = g.node("Mul", [y, g.constant("copies_but_the_first", others)], f"{name}.by_copy")
        return g.node("Add", [copies, y], f"{name}.added")


def _write_mixing(g: GraphWriter, altup: AltUp, name: str, x: str) -> str:
    """m(x), (batch, sequence, copies); the router's product is written here, as a layer has it twice."""
    router = altup.router.weight
    inputs = [g.norm(altup.router_norm, x, f"{name}.norm"), g.weight(router)]
    share = 1 / router.shape[1]
    routed = g.node("FusedMatMul", inputs, f"{name}.routed", domain=CONTRIB, transB=1, alpha=share)
    return g.node("Tanh", [routed], f"{name}.mixing")


def _copy(g: GraphWriter, copies: str, index: int, output: str) -> str:
    """One of the copies, (batch, sequence, hidden)."""
    return g.node("Gather", [copies, g.constant(f"copy_{index}", np.array(index, np.int64))], output, axis=2)


def _axis(g: GraphWriter, axis: int) -> str:
    """An axis from the front: onnxruntime makes one of equal constants, and ``logits_start`` is [-1]."""
    return g.constant(f"axis_{axis}", np.array([axis], np.int64))
