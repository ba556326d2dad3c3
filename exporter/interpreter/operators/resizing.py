"""Resizing and sampling of images: one axis after the other, each place a weighted sum of places."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.call import Call, Operator, integers

_GRIDS = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic", "bicubic": "bicubic"}


def _resize(
    call: Call, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """Resize (opset 11 on: X, roi, scales, sizes; 10: X, scales) and Upsample (9)."""
    call.only(antialias=0, keep_aspect_ratio_policy="stretch", extrapolation_value=0.0)
    is_old = call.version < 11
    if is_old:
        scales = roi if scales is None else scales
    axes = [axis % x.dim() for axis in call.get("axes", range(x.dim()))]
    if sizes is not None and sizes.numel():
        wanted = integers(sizes) or []
        factors = [size / x.shape[axis] for size, axis in zip(wanted, axes, strict=True)]
    elif scales is not None:
        factors = [float(factor) for factor in scales.reshape(-1).tolist()]
        wanted = [math.floor(x.shape[axis] * factor) for axis, factor in zip(axes, factors, strict=True)]
    else:
        call.refuse("neither scales nor sizes are given")
    how = "asymmetric" if is_old else call.get("coordinate_transformation_mode", "half_pixel")
    for axis, size, factor in zip(axes, wanted, factors, strict=True):
        if size != x.shape[axis] or factor != 1:
            x = _along(call, x, axis, size, factor=factor, how=how)
    return x


def _along(call: Call, x: Tensor, axis: int, size: int, *, factor: float, how: str) -> Tensor:
    """``x`` with ``size`` places along ``axis``."""
    length, places = x.shape[axis], torch.arange(size, dtype=torch.float32)
    if how in ("half_pixel", "half_pixel_symmetric"):
        at = (places + 0.5) / factor - 0.5
        if how == "half_pixel_symmetric":
            at = at + length / 2 * (1 - size / (factor * length))
    elif how == "pytorch_half_pixel":
        at = (places + 0.5) / factor - 0.5 if size > 1 else places * 0
    elif how == "align_corners":
        at = places * (length - 1) / (size - 1) if size > 1 else places * 0
    elif how == "asymmetric":
        at = places / factor
    else:
        call.refuse(f"coordinate_transformation_mode {how!r} is not known")
    mode = call.get("mode", "nearest")
    if mode == "nearest":
        # before opset 11 places were cut off, which says what the default of later ones does not
        rule = "floor" if call.version < 11 else call.get("nearest_mode", "round_prefer_floor")
        index = {
            "floor": torch.floor(at),
            "ceil": torch.ceil(at),
            "round_prefer_floor": torch.ceil(at - 0.5),
            "round_prefer_ceil": torch.floor(at + 0.5),
        }[rule]
        return x.index_select(axis, index.clamp(0, length - 1).long().to(x.device))
    if mode not in ("linear", "cubic"):
        call.refuse(f"mode {mode!r} is not known")
    matrix = _linear(at, length) if mode == "linear" else _cubic(call, at, length)  # (size, length)
    return torch.movedim(torch.movedim(x, axis, -1) @ matrix.to(x).T, -1, axis)


def _linear(at: Tensor, length: int) -> Tensor:
    """Weights of the two places beside each, (size, length)."""
    at = at.clamp(0, length - 1)
    low = at.floor()
    part, low = at - low, low.long()
    matrix = torch.zeros(len(at), length)
    rows = torch.arange(len(at))
    matrix.index_put_((rows, low), 1 - part, accumulate=True)
    matrix.index_put_((rows, (low + 1).clamp_max(length - 1)), part, accumulate=True)
    return matrix


def _cubic(call: Call, at: Tensor, length: int) -> Tensor:
    """Weights of the four places around each (Keys 1981), (size, length)."""
    a, low = float(call.get("cubic_coeff_a", -0.75)), at.floor()
    part = at - low

    def near(t: Tensor) -> Tensor:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Tensor) -> Tensor:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    weights = torch.stack([far(part + 1), near(part), near(1 - part), far(2 - part)], 1)  # (size, 4)
    places = low.long()[:, None] + torch.arange(-1, 3)
    if call.get("exclude_outside", 0):
        weights = torch.where((places >= 0) & (places < length), weights, 0)
        weights = weights / weights.sum(1, keepdim=True)
    matrix = torch.zeros(len(at), length)
    rows = torch.arange(len(at))[:, None].expand(-1, 4)
    return matrix.index_put_((rows, places.clamp(0, length - 1)), weights, accumulate=True)


def _grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    mode, padding = call.get("mode", "linear"), call.get("padding_mode", "zeros")
    return functional.grid_sample(x, grid, _GRIDS[mode], padding, bool(call.get("align_corners", 0)))


OPERATORS: dict[str, Operator] = {"GridSample": _grid_sample, "Resize": _resize, "Upsample": _resize}
