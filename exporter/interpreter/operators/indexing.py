"""Operators that take elements by index, and put them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgepress.exporter.interpreter.call import Call, Operator

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _within(indices: Tensor, size: int) -> Tensor:
    """Indices from 0 on; negative ones count from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def _gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0) % x.dim()
    taken = x.index_select(axis, _within(indices, x.shape[axis]).reshape(-1))
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0)
    return x.gather(axis, _within(indices, x.shape[axis]))


def _gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """``indices`` (…, depth) name places along the axes after ``batch_dims``."""
    batch, depth = call.get("batch_dims", 0), indices.shape[-1]
    places = [_within(indices[..., axis], x.shape[batch + axis]) for axis in range(depth)]
    rank = indices.dim() - 1
    shared = [
        torch.arange(x.shape[axis], device=x.device).reshape(-1, *[1] * (rank - axis - 1)) for axis in range(batch)
    ]
    return x[(*shared, *places)]


def _scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, how = call.get("axis", 0), call.get("reduction", "none")
    places = _within(indices, x.shape[axis])
    if how == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[how])


def _scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    how, depth = call.get("reduction", "none"), indices.shape[-1]
    places = [_within(indices[..., axis], x.shape[axis]) for axis in range(depth)]
    if how in ("none", "add"):
        return x.index_put(tuple(places), updates, accumulate=how == "add")
    flat = torch.zeros_like(places[0])
    for axis, place in enumerate(places):
        flat = flat * x.shape[axis] + place
    rest = math.prod(x.shape[depth:])
    rows, source = x.reshape(-1, rest), updates.reshape(-1, rest)
    index = flat.reshape(-1, 1).expand(-1, rest)
    return rows.scatter_reduce(0, index, source, _REDUCTIONS[how]).reshape(x.shape)


def _compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    axis = call.get("axis")
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x.index_select(axis, condition.nonzero().reshape(-1))


def _embed(
    call: Call,
    ids: Tensor,
    segments: Tensor | None,
    words: Tensor,
    positions: Tensor,
    segment_table: Tensor | None,
    gain: Tensor,
    bias: Tensor,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """EmbedLayerNormalization: words + positions + segments, normalized; the mask's lengths; the sum."""
    places = torch.arange(ids.shape[1])[None] if position_ids is None else position_ids.long()
    total = words[ids.long()] + positions[places]
    if segments is not None and segment_table is not None:
        total = total + segment_table[segments.long()]
    made = torch.layer_norm(total, total.shape[-1:], gain, bias, call.get("epsilon", 1e-12))
    lengths = torch.zeros(len(ids), dtype=torch.int32) if mask is None else mask.sum(1, dtype=torch.int32)
    return made, lengths, total


OPERATORS: dict[str, Operator] = {
    "Compress": _compress,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "com.microsoft:EmbedLayerNormalization": _embed,
}
