"""Projections as two factors: how a decoder's description changes, and the product for who knows one matrix only.

W (rows, columns) becomes U (rows, rank) after V (rank, columns), in tensors ``NAME.u.weight`` and ``NAME.v.weight`` of
the checkpoint, NAME being the projection's in the decoder. Its config says which and of which rank:
``"low_rank": {NAME: rank}``, a key of ours. Rows that shared a tensor with W, and are no part of it, move up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.model.description import (
    Decoder,
    Linear,
    Part,
    Weight,
    change_parts,
    layer_linears,
    with_linears,
)
from edgepress.exporter.source.config import Config

KEY = "low_rank"

Read = Callable[[str], NDArray[np.float32]]
"""Gives a whole tensor of the checkpoint by its name."""


def read_ranks(config: Config) -> dict[str, int]:
    """The rank of each projection that is stored as two factors, by its name."""
    section = config.section(KEY)
    return {} if section is None else {name: section.integer(name) for name in section.values}


def with_factors(decoder: Decoder, ranks: Mapping[str, int]) -> Decoder:
    """The decoder whose projections named in ``ranks`` have two factors, of that rank.

    Raises:
        KeyError: a name is that of no projection of a layer.

    """
    weights = {linear.weight.name: linear.weight for layer in decoder.layers for linear in layer_linears(layer)}
    gone = [part for name in ranks for part in weights[name].parts]

    def moved(part: Part) -> Part:
        before = [other for other in gone if other.tensor == part.tensor and other.start < part.start]
        above = sum(other.stop - other.start for other in before)
        return replace(part, start=part.start - above, stop=part.stop - above)

    def factored(linear: Linear) -> Linear:
        rank = ranks.get(linear.weight.name)
        return linear if rank is None else _factored(linear, rank)

    layers = tuple(change_parts(with_linears(layer, factored), moved) for layer in decoder.layers) if ranks else ()
    return replace(decoder, layers=layers or decoder.layers)


def _factored(linear: Linear, rank: int) -> Linear:
    name, (rows, columns) = linear.weight.name, linear.weight.shape
    u, v = (_factor(f"{name}.{letter}", *shape) for letter, shape in (("u", (rows, rank)), ("v", (rank, columns))))
    return Linear(u, linear.bias, inner=Linear(v))


def _factor(name: str, rows: int, columns: int) -> Weight:
    return Weight(name, "linear", (rows, columns), (Part(f"{name}.weight", 0, rows),))


@dataclass(frozen=True)
class Product:
    """A tensor of the model without factors, made of what the checkpoint has instead.

    ``pieces`` are parts of the tensor, the projection that each belongs to as it is stored, and the first of its rows.
    """

    shape: tuple[int, ...]  # as stored
    pieces: tuple[tuple[Part, Linear, int], ...]

    def compute(self, read: Read) -> NDArray[np.float32]:
        """The tensor, float32; the products are computed in float64."""
        out = np.empty(self.shape, np.float32)
        for part, linear, start in self.pieces:
            used = out.T if part.transposed else out
            used[part.start : part.stop] = _matrix(linear, read)[start : start + part.stop - part.start]
        return out


def products(plain: Decoder, stored: Decoder) -> dict[str, Product]:
    """Tensors that ``plain`` has and the checkpoint of ``stored``, the same with factors, has not as they are."""
    pieces: dict[str, list[tuple[Part, Linear, int]]] = {}
    touched: set[str] = set()
    for one, other in _pairs(plain, stored):
        start = 0
        for part in one.weight.parts:
            pieces.setdefault(part.tensor, []).append((part, other, start))
            start += part.stop - part.start
            if other.inner is not None:
                touched.add(part.tensor)
    return {name: _product(found) for name, found in pieces.items() if name in touched}


def _product(pieces: list[tuple[Part, Linear, int]]) -> Product:
    part, linear, _ = pieces[0]
    rows, columns = sum(part.stop - part.start for part, _, _ in pieces), linear.reader.weight.shape[1]
    return Product((columns, rows) if part.transposed else (rows, columns), tuple(pieces))


def _pairs(plain: Decoder, stored: Decoder) -> Iterator[tuple[Linear, Linear]]:
    for one, other in zip(plain.layers, stored.layers, strict=True):
        yield (one.attention.qkv, other.attention.qkv)
        yield (one.attention.output, other.attention.output)
        yield (one.mlp.up, other.mlp.up)
        yield (one.mlp.down, other.mlp.down)
        if one.mlp.gate is not None and other.mlp.gate is not None:
            yield (one.mlp.gate, other.mlp.gate)


def _matrix(linear: Linear, read: Read) -> NDArray[Any]:
    """Rows of a projection as used, (rows, columns); the product where there are two factors."""
    stored = [(part, read(part.tensor)) for part in linear.weight.parts]
    rows = np.concatenate([(whole.T if part.transposed else whole)[part.start : part.stop] for part, whole in stored])
    return rows if linear.inner is None else rows.astype(np.float64) @ _matrix(linear.inner, read).astype(np.float64)
