"""Scales moved between weights: columns of a projection times s, what produces its input divided by s.

The product is the same, the weights that are rounded are not (AWQ, SmoothQuant). What can take the scale of an input
channel, by projection:

- the mixer's input projections: gain and bias of the norm before them. Not where there is no such norm (OLMo 2 norms
  outputs only): their input is then the residual stream, which other layers use too.
- a mixer's output projection: rows and bias of its source, such as v of attention and up of a gated MLP; see
  :meth:`edgepress.exporter.model.description.Mixer.source`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.parts.primitives import Linear, Weight


@dataclass(frozen=True)
class Group:
    """Projections that share their input, and what can take the scales of that input.

    ``sources`` are divided by the scales, in their ``rows``; the input of column c of ``linears`` is channel
    ``channels[c]``, of ``count``.
    """

    linears: tuple[Linear, ...]
    sources: tuple[Weight, ...]
    rows: slice
    channels: Tensor  # (columns,) int64
    count: int

    def by_channel(self, by_column: Tensor, reduce: str) -> Tensor:
        """One value a column, (columns,), as one a channel, (channels,): the ``amax`` or ``mean`` of its columns."""
        found = torch.zeros(self.count, dtype=by_column.dtype, device=by_column.device)
        index = self.channels.to(by_column.device)
        return found.scatter_reduce(0, index, by_column, reduce, include_self=False)

    def by_column(self, by_channel: Tensor) -> Tensor:
        """One value a channel, (channels,), as one a column, (columns,)."""
        return by_channel[self.channels.to(by_channel.device)]

    def fold(self, weights: dict[str, Tensor], scales: Tensor) -> None:
        """Multiply the columns by ``scales`` > 0, (channels,), and divide the sources; in ``weights``, by name."""
        columns = self.by_column(scales)
        for linear in self.linears:
            weights[linear.weight.name] = weights[linear.weight.name] * columns
        for source in self.sources:
            whole = weights[source.name].clone()
            whole[self.rows] /= scales if whole.ndim == 1 else scales[:, None]
            weights[source.name] = whole


def foldable_groups(layer: Layer) -> list[Group]:
    """Groups of a layer whose input can be scaled; the others are left out."""
    found = [group for blocks in _by_norm(layer) for group in (_behind_norm(blocks), *map(_behind_source, blocks))]
    return [group for group in found if isinstance(group, Group)]


def not_foldable(decoder: Decoder) -> dict[str, str]:
    """Projections whose input cannot be scaled, by name, and why."""
    found: dict[str, str] = {}
    for blocks in (blocks for layer in decoder.layers for blocks in _by_norm(layer)):
        groups = [(_behind_norm(blocks), _read(blocks))]
        groups += [(_behind_source(block), block.mixer.output_projections) for block in blocks]
        for group, linears in groups:
            if isinstance(group, str):
                found |= {linear.weight.name: group for linear in linears}
    return found


def _by_norm(layer: Layer) -> list[tuple[Block, ...]]:
    """The blocks of a layer, those together that share a norm: its gain is divided once for all that read it."""
    found: dict[object, tuple[Block, ...]] = {}
    for number, block in enumerate(layer.blocks):
        key = block.norm or number
        found[key] = (*found.get(key, ()), block)
    return list(found.values())


def _read(blocks: tuple[Block, ...]) -> tuple[Linear, ...]:
    """The input projections of blocks that share a norm."""
    return tuple(linear for block in blocks for linear in block.mixer.input_projections)


def _behind_norm(blocks: tuple[Block, ...]) -> Group | str:
    """The input projections; the norm's gain and bias take the scales of their input."""
    norm, linears = blocks[0].norm, _read(blocks)
    if norm is None:
        return "no norm before it could take a scale"
    if any(block.adds_input for block in blocks):
        return "what goes into it is added to the stream as well"
    if any(block.mixer.scales_input for block in blocks):
        return "projections of it have gains of their own"
    columns = linears[0].weight.shape[1]
    sources = (norm.weight,) if norm.bias is None else (norm.weight, norm.bias)
    return Group(linears, sources, slice(None), torch.arange(columns), columns)


def _behind_source(block: Block) -> Group | str:
    """The output projection; the linear layer that makes its input takes the scales."""
    source = block.mixer.source()
    if isinstance(source, str):
        return source
    linear, rows = source.linear, source.rows
    blocks = torch.arange(rows.stop - rows.start).reshape(-1, source.width)
    channels = blocks.repeat_interleave(source.repeats, dim=0).reshape(-1)  # (columns,)
    sources = (linear.weight,) if linear.bias is None else (linear.weight, linear.bias)
    return Group((block.mixer.output_projection,), sources, rows, channels, blocks.numel())
