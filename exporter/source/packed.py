"""Tensors that a checkpoint stores as something else than floats: read a few rows at a time as what they stand for.

A stored format (``formats/<format>.py``) puts one :class:`PackedTensor` in the place of the tensors that hold a weight.
To those who read it, it is a float32 tensor of the weight's own name and shape; its :meth:`~PackedTensor.codes` are
there for whoever wants the integers themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.source.stored import StoredTensor, to_float32

Floats = NDArray[np.float32]

_AGAIN = "download the checkpoint again, or convert the original anew"
_STRIP = 1 << 20  # bytes of a tensor that are read at once where only some columns are wanted
_SHORT = 8  # where a row has this many times the bytes that are wanted, each row is read by itself


@dataclass(frozen=True)
class Grid:
    """Evenly spaced numbers: ``w = (code − zero point) · scale``, codes from 0 to 2^bits − 1.

    ``group`` columns share a scale and a zero point, 0 meaning the whole row. The zero point is 2^(bits−1) everywhere
    where ``symmetric``.
    """

    bits: int
    group: int
    symmetric: bool
    loses: str = ""  # what is rounded when the codes are taken for these numbers; "" where nothing is

    @property
    def middle(self) -> int:
        """The zero point of symmetric codes."""
        return 1 << (self.bits - 1)


@dataclass(frozen=True)
class Codes:
    """Rows as integers. ``zero_points`` is None where each is the middle of the grid."""

    values: NDArray[np.uint8]  # (rows, columns)
    scales: Floats  # (rows, groups)
    zero_points: NDArray[np.int16] | None = None  # (rows, groups)

    def dequantize(self, grid: Grid) -> Floats:
        """(rows, columns): the difference is exact, and the product is rounded to float32 once."""
        rows, columns = self.values.shape
        size = grid.group or columns
        steps = np.zeros((rows, self.scales.shape[1] * size), np.float32)
        steps[:, :columns] = self.values
        groups = steps.reshape(rows, -1, size)
        groups -= np.float32(grid.middle) if self.zero_points is None else self.zero_points[:, :, None]
        groups *= self.scales[:, :, None]
        return np.ascontiguousarray(steps[:, :columns])


@dataclass(frozen=True, kw_only=True)
class PackedTensor(StoredTensor):
    """A weight that is made of ``stored`` tensors when its rows are read.

    ``dtype`` is F32 and ``nbytes`` those of float32: what :meth:`rows` gives. ``offset`` is that of the first of the
    stored tensors, and says nothing of the others. A format's own class says how rows are made, and of what.
    """

    stored: tuple[StoredTensor, ...] = field(default=(), repr=False)
    how: str = ""  # in words, as plans print it: "GPTQ 4 bits, groups of 128"
    own_form: ClassVar[bool] = False  # whether it has the shape that the family stores floats in, transposed or not
    by_columns: bool = False  # rows lie scattered: whoever reads many at a time reads each byte once

    @property
    def stored_itemsize(self) -> float:
        """Bytes that the checkpoint has for an element, on average."""
        return sum(tensor.nbytes for tensor in self.stored) / max(1, math.prod(self.shape))

    def read(self, start: int, nbytes: int) -> NDArray[np.uint8]:
        """Bytes of the float32 tensor that it stands for."""
        if not 0 <= start <= start + nbytes <= self.nbytes:
            raise ValueError(f"bytes {start}:{start + nbytes} of {self.name}, which has {self.nbytes}")
        if not nbytes:
            return np.empty(0, np.uint8)
        first, last = start // self.row_nbytes, -(-(start + nbytes) // self.row_nbytes)
        raw = np.ascontiguousarray(self.rows(first, last)).reshape(-1).view(np.uint8)
        begin = start - first * self.row_nbytes
        return raw[begin : begin + nbytes]

    def rows(self, start: int, stop: int) -> Floats:
        """Rows ``start`` to ``stop`` as float32, (stop − start, …)."""
        raise NotImplementedError

    def turned(self, index: int | None) -> PackedTensor | None:  # noqa: ARG002 - of those that have matrices
        """It the other way round, or its matrix of a number, where that is how rows are stored; None elsewhere."""
        return None

    def grid(self) -> Grid | str:
        """How its codes are spaced, or why they are on no such grid: the end of a sentence. May read zero points."""
        return "it is stored as no integers"

    def codes(self, start: int, stop: int) -> Codes:
        """Rows ``start`` to ``stop`` as the integers of :meth:`grid`, where that is one."""
        raise NotImplementedError

    def order(self) -> NDArray[np.int32] | None:
        """Which column each column of :meth:`codes` is, (columns,), where they are not as they were; else None."""
        return None


@dataclass(frozen=True, kw_only=True)
class GridTensor(PackedTensor):
    """A weight (rows, columns) on a :class:`Grid`: a format says how codes are read, and the rest follows."""

    bits: int
    group: int  # columns that share a scale, 0: all of a row

    @cached_property
    def _grid(self) -> Grid | str:
        grid = Grid(self.bits, self.group, symmetric=True)
        zeros = self.zero_points(0, self.shape[0])
        if zeros is None or (zeros == grid.middle).all():
            return grid
        if zeros.min() < 0 or zeros.max() >= 1 << self.bits:
            return f"it has zero points from {zeros.min()} to {zeros.max()}, beyond its codes of {self.bits} bits"
        return Grid(self.bits, self.group, symmetric=False)

    def grid(self) -> Grid | str:
        """Symmetric where every zero point is the middle, whatever the config says."""
        return self._grid

    def rows(self, start: int, stop: int) -> Floats:
        """Rows as float32."""
        return self.codes(start, stop).dequantize(Grid(self.bits, self.group, symmetric=False))

    def zero_points(self, start: int, stop: int) -> NDArray[np.int16] | None:
        """(stop − start, groups), None where each is the middle."""
        raise NotImplementedError


class Fields(TypedDict):
    """The fields that every packed tensor has."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int
    stored: tuple[StoredTensor, ...]
    how: str


def packed_as(name: str, shape: tuple[int, ...], stored: tuple[StoredTensor, ...], how: str) -> Fields:
    """The fields of a weight ``name`` that ``stored`` tensors hold, for a format's own class."""
    return Fields(
        name=name,
        dtype="F32",
        shape=shape,
        file=stored[0].file,
        offset=stored[0].offset,
        nbytes=4 * math.prod(shape),
        stored=stored,
        how=how,
    )


def unpack_bits(raw: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Bytes (…, n) as the codes of ``bits`` that follow each other in them, the first in the lowest bits: (…, 8n/bits).

    With 3, 5, 6 or 7 bits eight codes take as many bytes, and n must be a multiple of that.
    """
    if bits == 8:
        return raw
    if bits in (1, 2, 4):
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes: NDArray[np.uint8] = (raw[..., None] >> shifts) & np.uint8((1 << bits) - 1)  # (…, n, 8 / bits)
        return codes.reshape(*raw.shape[:-1], raw.shape[-1] * 8 // bits)
    eights = np.zeros((*raw.shape[:-1], raw.shape[-1] // bits, 8), np.uint8)
    eights[..., :bits] = raw.reshape(*raw.shape[:-1], -1, bits)
    words = eights.view("<u8")  # (…, n / bits, 1)
    wide = (words >> np.arange(0, 8 * bits, bits, dtype=np.uint64)) & np.uint64((1 << bits) - 1)
    return wide.astype(np.uint8).reshape(*raw.shape[:-1], raw.shape[-1] * 8 // bits)


def elements(tensor: StoredTensor, start: int, stop: int, dtype: str) -> NDArray[np.generic]:
    """Rows ``start`` to ``stop`` of a tensor as numpy's little-endian ``dtype``, (stop − start, …)."""
    raw = tensor.read(start * tensor.row_nbytes, (stop - start) * tensor.row_nbytes)
    return raw.view(dtype).reshape(stop - start, *tensor.shape[1:])


def columns(tensor: StoredTensor, start: int, stop: int) -> NDArray[np.uint8]:
    """Bytes of columns ``start`` to ``stop`` of a matrix, (rows, bytes): the whole matrix is never in memory."""
    rows, width = tensor.shape
    if not 0 <= start <= stop <= width:
        raise ValueError(f"columns {start}:{stop} of {tensor.name}, which has {width}")
    item = tensor.row_nbytes // max(1, width)
    out = np.empty((rows, (stop - start) * item), np.uint8)
    if out.shape[1] * _SHORT <= tensor.row_nbytes:
        for row in range(rows):
            out[row] = tensor.read(row * tensor.row_nbytes + start * item, out.shape[1])
        return out
    step = max(1, _STRIP // max(1, tensor.row_nbytes))
    for row in range(0, rows, step):
        count = min(step, rows - row)
        piece = tensor.read(row * tensor.row_nbytes, count * tensor.row_nbytes).reshape(count, -1)
        out[row : row + count] = piece[:, start * item : stop * item]
    return out


def floats(tensor: StoredTensor, start: int, stop: int) -> Floats:
    """Columns ``start`` to ``stop`` of a matrix of floats, (stop − start, rows): its transpose's rows."""
    raw = columns(tensor, start, stop)
    return np.ascontiguousarray(to_float32(raw.reshape(-1), tensor.dtype).reshape(len(raw), -1).T)


def wrong(tensor: StoredTensor, why: str, remedy: str = _AGAIN) -> InputError:
    """The error for a tensor that is not what its format says."""
    return InputError(f"{tensor.file.name}: {tensor.name} is {tensor.dtype} {list(tensor.shape)}: {why}; {remedy}")


def partner(tensors: dict[str, StoredTensor], first: StoredTensor, name: str) -> StoredTensor:
    """Take the tensor that must lie beside ``first`` out of ``tensors``.

    Raises:
        InputError: it is not there.

    """
    found = tensors.pop(name, None)
    if found is None:
        raise InputError(f"{first.file.name}: {first.name} is there, and {name} is not; {_AGAIN}")
    return found
