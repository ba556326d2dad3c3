"""AutoAWQ's files in the order of its GEMM kernel (Lin et al. 2023; ``quant_method`` "awq", ``version`` "gemm").

A linear layer of (rows, columns) is three tensors, named after it: ``qweight`` int32 (columns, rows / 8), ``qzeros``
int32 (groups, rows / 8) and ``scales`` float16 (groups, rows). A word holds the codes of eight rows, from its lowest
bits on those of the rows 0, 2, 4, 6, 1, 3, 5, 7. ``w = (code − zero point) · scale``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import Format
from edgepress.exporter.source.packed import (
    Codes,
    GridTensor,
    columns,
    floats,
    packed_as,
    partner,
    unpack_bits,
    wrong,
)
from edgepress.exporter.source.stored import READABLE, StoredTensor

_ROWS = 8  # in a word
_PLACE = np.argsort([0, 2, 4, 6, 1, 3, 5, 7])  # where in a word each of its rows is


@dataclass(frozen=True, kw_only=True)
class AWQWeight(GridTensor):
    """A weight of (rows, columns); ``stored`` is qweight, qzeros and scales."""

    by_columns: bool = True

    def zero_points(self, start: int, stop: int) -> NDArray[np.int16]:
        """(stop − start, groups)."""
        return _transposed(self.stored[1], start, stop).astype(np.int16)

    def codes(self, start: int, stop: int) -> Codes:
        """See :class:`~edgepress.exporter.source.packed.PackedTensor`."""
        values = _transposed(self.stored[0], start, stop)
        return Codes(values, floats(self.stored[2], start, stop), self.zero_points(start, stop))


def _transposed(words: StoredTensor, start: int, stop: int) -> NDArray[np.uint8]:
    """Rows ``start`` to ``stop`` of the codes in ``words`` (height, rows / 8): (stop − start, height)."""
    first, last = start // _ROWS, -(-stop // _ROWS)
    raw = columns(words, first, last)  # (height, bytes)
    codes = unpack_bits(raw, 4).reshape(len(raw), last - first, _ROWS)[:, :, _PLACE].reshape(len(raw), -1)
    return np.ascontiguousarray(codes[:, start - first * _ROWS : stop - first * _ROWS].T)


def read(settings: Config, tensors: dict[str, StoredTensor]) -> str:
    """See :class:`~edgepress.exporter.source.formats.Format`."""
    key = "bits" if settings.has("bits") else "w_bit"
    if settings.integer(key, 4) != 4:
        raise settings.refuse(key, "AWQ's files have 4 bits")
    if str(settings.values.get("version", "gemm")).lower() != "gemm":
        raise settings.refuse("version", "packed for another kernel; save it with version gemm")
    size = settings.integer("group_size" if settings.has("group_size") else "q_group_size", 128, minimum=-1)
    for name in [name for name in tensors if name.endswith(".qweight")]:
        weight = _weight(tensors, name.removesuffix(".qweight"))
        tensors[weight.name] = weight
    return f"AWQ, 4 bits, {'one scale a row' if size < 1 else f'groups of {size}'}"


def _weight(tensors: dict[str, StoredTensor], module: str) -> AWQWeight:
    codes = tensors.pop(f"{module}.qweight")
    scales = partner(tensors, codes, f"{module}.scales")
    zeros = partner(tensors, codes, f"{module}.qzeros")
    if codes.dtype != "I32" or len(codes.shape) != 2:
        raise wrong(codes, "AWQ's codes are a matrix of I32")
    width, rows = codes.shape[0], codes.shape[1] * _ROWS
    groups = scales.shape[0] if len(scales.shape) == 2 else 0
    if scales.dtype not in READABLE or scales.shape != (groups, rows) or not groups or width % groups:
        raise wrong(scales, f"the scales of {width} columns and {rows} rows are floats (groups, {rows}), groups whole")
    if zeros.dtype != "I32" or zeros.shape != (groups, codes.shape[1]):
        raise wrong(zeros, f"the zero points of {groups} groups and {rows} rows are I32 {[groups, codes.shape[1]]}")
    size = width // groups
    how = f"AWQ 4 bits, {'one scale a row' if groups == 1 else f'groups of {size}'}"
    common = packed_as(f"{module}.weight", (rows, width), (codes, zeros, scales), how)
    return AWQWeight(**common, bits=4, group=0 if groups == 1 else size)


FORMAT = Format("awq", methods=("awq",), read=read)
