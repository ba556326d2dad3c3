"""Scales moved between weights: columns of a projection times s, what produces its input divided by s.

The product is the same, the weights that are rounded are not (AWQ, SmoothQuant). What can take the scale of an input
channel, by projection:

- qkv; gate and up: gain and bias of the norm before them. Not where there is no such norm (OLMo 2 norms outputs only):
  what goes in is then the residual stream, which other layers read too.
- output: the rows of v and their bias. Attention mixes positions, not channels. The query heads of a group read the
  same v, so that they share its scales.
- down: the rows of up and their bias, when up is a factor of what goes in: ``activation(gate) · up``, or ``relu(up)``
  as relu(x / s) = relu(x) / s for s > 0. Not behind another activation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgepress.exporter.model.description import Attention, Decoder, Layer, Linear, Norm, Weight


@dataclass(frozen=True)
class Group:
    """Projections with one input, and what can take its scales.

    ``sources`` are divided by the scales, in their ``rows``; column c of ``linears`` reads channel ``channels[c]``, and
    there are ``count`` channels.
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
    attention, mlp = layer.attention, layer.mlp
    inputs = (mlp.up,) if mlp.gate is None else (mlp.gate, mlp.up)
    found = [
        _behind_norm(layer.attention_norm, (attention.qkv,)),
        _behind_values(attention),
        _behind_norm(layer.mlp_norm, inputs),
    ]
    if mlp.gate is not None or mlp.activation == "relu":
        found.append(_group((mlp.down,), _parameters(mlp.up), slice(None)))
    return [group for group in found if group is not None]


def not_foldable(decoder: Decoder) -> dict[str, str]:
    """Projections whose input cannot be scaled, by name, and why."""
    found: dict[str, str] = {}
    for layer in decoder.layers:
        foldable = {linear.weight.name for group in foldable_groups(layer) for linear in group.linears}
        for linear in (layer.attention.qkv, layer.mlp.gate, layer.mlp.up):
            if linear is not None and linear.weight.name not in foldable:
                found[linear.weight.name] = "no norm before it could take a scale"
        down = layer.mlp.down.weight
        if down.name not in foldable:
            found[down.name] = f"{layer.mlp.activation} before it does not pass a scale on"
    return found


def _behind_norm(norm: Norm | None, linears: tuple[Linear, ...]) -> Group | None:
    if norm is None:
        return None
    sources = (norm.weight,) if norm.bias is None else (norm.weight, norm.bias)
    return _group(linears, sources, slice(None))


def _behind_values(attention: Attention) -> Group:
    """Head h of the output projection's columns reads kv head h // (heads / kv_heads)."""
    width = attention.head_dim
    channels = torch.arange(attention.kv_heads * width).reshape(attention.kv_heads, width)
    by_head = channels.repeat_interleave(attention.heads // attention.kv_heads, dim=0)  # (heads, head_dim)
    sources = _parameters(attention.qkv)
    return Group((attention.output,), sources, value_rows(attention), by_head.reshape(-1), channels.numel())


def value_rows(attention: Attention) -> slice:
    """The rows of qkv that are v."""
    start = (attention.heads + attention.kv_heads) * attention.head_dim
    return slice(start, start + attention.kv_heads * attention.head_dim)


def _group(linears: tuple[Linear, ...], sources: tuple[Weight, ...], rows: slice) -> Group:
    columns = linears[0].weight.shape[1]
    return Group(linears, sources, rows, torch.arange(columns), columns)


def _parameters(linear: Linear) -> tuple[Weight, ...]:
    return (linear.weight,) if linear.bias is None else (linear.weight, linear.bias)
