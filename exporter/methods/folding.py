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

from edgepress.exporter.model.description import Block, Decoder, Layer, Linear, Mixer, Weight, every


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
    found = [group for block in layer.blocks for group in (_behind_norm(block), _behind_source(block.mixer))]
    return [group for group in found if isinstance(group, Group)]


def not_foldable(decoder: Decoder) -> dict[str, str]:
    """Projections whose input cannot be scaled, by name, and why."""
    found: dict[str, str] = {}
    for block in every(Block, decoder.layers):
        for group, linears in (
            (_behind_norm(block), block.mixer.input_projections),
            (_behind_source(block.mixer), (block.mixer.output_projection,)),
        ):
            if isinstance(group, str):
                found |= {linear.weight.name: group for linear in linears}
    return found


def _behind_norm(block: Block) -> Group | str:
    """The input projections; the norm's gain and bias take the scales of their input."""
    norm, linears = block.norm, block.mixer.input_projections
    if norm is None:
        return "no norm before it could take a scale"
    columns = linears[0].weight.shape[1]
    sources = (norm.weight,) if norm.bias is None else (norm.weight, norm.bias)
    return Group(linears, sources, slice(None), torch.arange(columns), columns)


def _behind_source(mixer: Mixer) -> Group | str:
    """The output projection; the linear layer that makes its input takes the scales."""
    source = mixer.source()
    if isinstance(source, str):
        return source
    linear, rows = source.linear, source.rows
    blocks = torch.arange(rows.stop - rows.start).reshape(-1, source.width)
    channels = blocks.repeat_interleave(source.repeats, dim=0).reshape(-1)  # (columns,)
    sources = (linear.weight,) if linear.bias is None else (linear.weight, linear.bias)
    return Group((mixer.output_projection,), sources, rows, channels, blocks.numel())
