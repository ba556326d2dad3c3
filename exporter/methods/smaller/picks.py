"""A smaller model as picks from a larger one: which rows and columns of which weight each of its weights is.

Removing layers, channels, heads or tokens all come to this. Rows and columns are those of the weights as the graph uses
them; where they lie in the stored tensors (fused, transposed) is worked out here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.methods.smaller.checkpoint import NewTensor, read_rows
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.part import Part
from edgepress.exporter.source.stored import to_float32

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Pick:
    """Rows and columns of ``weight``, in the new order; None is all of them.

    ``scale`` (rows,) multiplies the picked rows as the graph uses them, which are then stored in float32; without it
    they are copied bit for bit.
    """

    weight: Weight
    rows: Indices | None = None
    columns: Indices | None = None
    scale: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class _Piece:
    """Consecutive rows of a new tensor, as used: rows and columns of one stored tensor, as used."""

    start: int
    stop: int
    tensor: str
    transposed: bool
    rows: Indices
    columns: Indices | None
    scale: NDArray[np.float32] | None
    plus: float  # what the graph adds to the stored values


def whole(old: Decoder, new: Decoder) -> dict[str, Pick]:
    """Each weight of ``new`` from the weight of the same name in ``old``, all of it: where a step begins.

    Where layers move, another kind of layer may have had the number: such weights have no pick yet.
    """
    by_name = {weight.name: weight for weight in old.weights()}
    return {weight.name: Pick(by_name[weight.name]) for weight in new.weights() if weight.name in by_name}


def picked_tensors(checkpoint: Checkpoint, new: Decoder, picks: Mapping[str, Pick]) -> list[NewTensor]:
    """The tensors of ``new`` whose weights are picks from ``checkpoint``; one without a pick is left out.

    Raises:
        ValueError: a pick does not have the shape of its weight, or mixes stored tensors.

    """
    pieces: dict[str, list[_Piece]] = {}
    stacks: dict[str, dict[int, tuple[str, int]]] = {}  # by name and number, the tensor and number of a matrix
    for weight in new.weights():
        pick = picks.get(weight.name)
        if pick and any(part.index is not None for part in weight.parts):
            for part, matrix in zip(weight.parts, _matrices(weight, pick), strict=True):
                stacks.setdefault(part.tensor, {})[part.index or 0] = matrix
            continue
        for part, piece in zip(weight.parts, _pieces(weight, pick), strict=True) if pick else ():
            pieces.setdefault(part.tensor, []).append(piece)
    found = [_tensor(checkpoint, name, some) for name, some in pieces.items()]
    return [*found, *(_stack(checkpoint, name, matrices) for name, matrices in stacks.items())]


def _matrices(weight: Weight, pick: Pick) -> list[tuple[str, int]]:
    """Where the matrices lie, by tensor and number, that the parts of ``weight`` are rows of."""
    if pick.rows is not None or pick.columns is not None or pick.scale is not None:
        raise ValueError(f"{weight.name} is a matrix of a stack, which is copied as a whole or not at all")
    return [(part.tensor, part.index or 0) for part in pick.weight.parts]


def _stack(checkpoint: Checkpoint, name: str, matrices: Mapping[int, tuple[str, int]]) -> NewTensor:
    """A tensor of whole matrices of another one, (matrices, …), bit for bit."""
    places = [matrices[number] for number in range(len(matrices))]
    stored = checkpoint.tensors[places[0][0]]
    if any(tensor != stored.name for tensor, _ in places):
        raise ValueError(f"{name} would be made of {sorted({tensor for tensor, _ in places})}")
    stored.check_readable()
    numbers = np.array([number for _, number in places])
    return NewTensor(
        name,
        stored.dtype,
        (len(numbers), *stored.shape[1:]),
        lambda start, stop: read_rows(stored, numbers[start:stop]),
    )


def _pieces(weight: Weight, pick: Pick) -> list[_Piece]:
    """One piece for each part of the new ``weight``."""
    old = pick.weight
    rows = np.arange(old.shape[0]) if pick.rows is None else pick.rows
    columns = old.shape[1:] if pick.columns is None else (len(pick.columns),)
    if (len(rows), *columns) != weight.shape:
        raise ValueError(f"{weight.name} has shape {weight.shape}, its pick {(len(rows), *columns)}")
    begins = np.cumsum([0, *(part.stop - part.start for part in old.parts)])  # of the old parts, in rows
    found: list[_Piece] = []
    offset = 0
    for part in weight.parts:
        span = slice(offset, offset + part.stop - part.start)
        offset = span.stop
        owners = np.unique(np.searchsorted(begins, rows[span], side="right") - 1)
        if len(owners) != 1:
            raise ValueError(f"{part.tensor} would be made of {len(owners)} parts of {old.name}")
        source: Part = old.parts[int(owners[0])]
        stored = rows[span] - begins[owners[0]] + source.start
        scale = None if pick.scale is None else pick.scale[span]
        found.append(
            _Piece(part.start, part.stop, source.tensor, part.transposed, stored, pick.columns, scale, weight.plus)
        )
    return found


def _tensor(checkpoint: Checkpoint, name: str, pieces: list[_Piece]) -> NewTensor:
    """A tensor from its pieces, all of one stored tensor, in the order of their rows; tied weights bring one twice."""
    first = sorted(pieces, key=lambda piece: piece.start)
    ordered = [piece for index, piece in enumerate(first) if not index or piece.start != first[index - 1].start]
    head = ordered[0]
    if head.start:  # rows that no weight uses, before those of OPT's first position
        ordered.insert(0, replace(head, start=0, stop=head.start, rows=np.arange(head.start), scale=None))
    if any(piece.tensor != head.tensor for piece in ordered):
        raise ValueError(f"{name} would be made of {sorted({piece.tensor for piece in ordered})}")
    stored = checkpoint.tensors[head.tensor]
    used_rows = np.concatenate([piece.rows for piece in ordered])
    scale = _scale(ordered)
    # what the picks call rows are the stored rows, or the stored columns where the tensor is transposed
    along, across = (head.columns, used_rows) if head.transposed else (used_rows, head.columns)
    along = np.arange(stored.shape[0]) if along is None else along
    inner = stored.shape[1:] if across is None else (len(across),)

    def rows(start: int, stop: int) -> NDArray[np.float32] | NDArray[np.uint8]:
        raw = read_rows(stored, along[start:stop])  # (rows, bytes in a row)
        if across is not None:
            raw = raw.reshape(len(raw), -1, stored.itemsize)[:, across].reshape(len(raw), -1)
        if scale is None:
            return raw
        values = to_float32(np.ascontiguousarray(raw).reshape(-1), stored.dtype).reshape(len(raw), *inner)
        factor = scale if head.transposed else scale[start:stop].reshape(-1, *(1 for _ in inner))
        return (values + np.float32(head.plus)) * factor - np.float32(head.plus)

    return NewTensor(name, stored.dtype if scale is None else "F32", (len(along), *inner), rows)


def _scale(pieces: list[_Piece]) -> NDArray[np.float32] | None:
    if all(piece.scale is None for piece in pieces):
        return None
    return np.concatenate(
        [np.ones(len(piece.rows), np.float32) if piece.scale is None else piece.scale for piece in pieces]
    )
