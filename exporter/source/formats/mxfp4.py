"""MXFP4, as gpt-oss ships its experts (OCP Microscaling Formats 1.0; ``quant_method`` "mxfp4").

``X_blocks`` uint8 (experts, rows, groups, 16): two 4-bit floats a byte, the first in its low bits, 32 a group;
``X_scales`` uint8 (experts, rows, groups): the group's power of two, plus 127; 255 is no number. transformers' ``X`` is
their transpose, (experts, columns, rows).

The floats (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives) are whole halves, so that 8 bits hold them unchanged: half
the power of two is the scale, and twice the float plus 128 the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import Format
from edgepress.exporter.source.packed import Codes, Floats, Grid, PackedTensor, packed_as, partner, wrong
from edgepress.exporter.source.stored import StoredTensor

_GROUP = 32
_GRID = Grid(8, _GROUP, symmetric=True)
_HALVES = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.int16)
_CODES = (_GRID.middle + np.concatenate([_HALVES, -_HALVES])).astype(np.uint8)  # by the four bits
_NO_NUMBER = 255


@dataclass(frozen=True, kw_only=True)
class MXFP4Matrix(PackedTensor):
    """One expert's matrix (rows, columns); ``stored`` is blocks and scales of all experts."""

    own_form: ClassVar[bool] = True
    expert: int

    def rows(self, start: int, stop: int) -> Floats:
        """Rows as float32: a float times a power of two is exact."""
        return self.codes(start, stop).dequantize(_GRID)

    def grid(self) -> Grid | str:
        """Whole halves of powers of two."""
        return _GRID

    def codes(self, start: int, stop: int) -> Codes:
        """Rows as integers of 8 bits.

        Raises:
            InputError: a scale is none.

        """
        raw, powers = (self._stored(tensor, start, stop) for tensor in self.stored)
        if (powers == _NO_NUMBER).any():
            raise wrong(self.stored[1], f"expert {self.expert} has a scale that is no number ({_NO_NUMBER})")
        values = np.stack([_CODES[raw & 15], _CODES[raw >> 4]], axis=-1)  # (rows, groups, 16, 2)
        scales = np.ldexp(np.float32(1), powers.astype(np.int32) - 128)
        return Codes(values.reshape(stop - start, -1), scales)

    def _stored(self, tensor: StoredTensor, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows of this expert in a tensor (experts, rows, …): (stop − start, …)."""
        _, rows, *rest = tensor.shape
        row_nbytes = tensor.row_nbytes // rows
        first = self.expert * tensor.row_nbytes + start * row_nbytes
        return tensor.read(first, (stop - start) * row_nbytes).reshape(stop - start, *rest)


@dataclass(frozen=True, kw_only=True)
class MXFP4Experts(PackedTensor):
    """(experts, columns, rows), or all of their columns one below the other; ``stored`` is blocks and scales."""

    own_form: ClassVar[bool] = True
    by_columns: bool = True

    def rows(self, start: int, stop: int) -> Floats:
        """Whole experts, or columns of some, as float32."""
        experts, rows, groups = self.stored[1].shape
        height = groups * _GROUP if self.shape[0] != experts else 1
        pieces = []
        for expert in range(start // height, -(-stop // height)):
            columns = self.turned(expert).rows(0, rows).T  # (columns, rows)
            begin, end = max(start - expert * height, 0), min(stop - expert * height, height)
            pieces.append(columns[begin:end] if height > 1 else columns)
        return np.ascontiguousarray(np.concatenate(pieces)).reshape(stop - start, *self.shape[1:])

    def turned(self, index: int | None) -> PackedTensor:
        """See :class:`~edgepress.exporter.source.packed.PackedTensor`: rows of blocks are an expert's own."""
        if index is None:
            raise ValueError(f"{self.name} is a stack of matrices")
        _, rows, groups = self.stored[1].shape
        return MXFP4Matrix(**packed_as(self.name, (rows, groups * _GROUP), self.stored, self.how), expert=index)


def read(_settings: Config, tensors: dict[str, StoredTensor]) -> str:
    """See :class:`~edgepress.exporter.source.formats.Format`."""
    for name in [name for name in tensors if name.endswith("_blocks")]:
        plain = name.removesuffix("_blocks")
        blocks = tensors.pop(name)
        scales = partner(tensors, blocks, f"{plain}_scales")
        if blocks.dtype != "U8" or len(blocks.shape) != 4 or blocks.shape[3] != _GROUP // 2:
            raise wrong(blocks, "MXFP4's blocks are U8 (experts, rows, groups, 16)")
        if scales.dtype != "U8" or scales.shape != blocks.shape[:3]:
            raise wrong(scales, f"the scales of these blocks are U8 {list(blocks.shape[:3])}")
        experts, rows, groups, _ = blocks.shape
        fields = packed_as(plain, (experts, groups * _GROUP, rows), (blocks, scales), "MXFP4, groups of 32")
        tensors[plain] = MXFP4Experts(**fields)
    return "MXFP4, groups of 32"


FORMAT = Format("mxfp4", methods=("mxfp4",), read=read)
