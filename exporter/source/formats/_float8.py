"""Weights in 8-bit floats (Micikevicius et al. 2022, "FP8 Formats for Deep Learning") with a scale for each block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from edgepress.exporter.source.packed import Floats, PackedTensor, packed_as, wrong
from edgepress.exporter.source.stored import READABLE, StoredTensor, to_float32

FLOAT8 = ("F8_E4M3", "F8_E5M2")


@cache
def values_of(dtype: str) -> Floats:
    """What each byte stands for, (256,): E5M2 is half a float16, E4M3 has no infinities and 448 at most."""
    byte = np.arange(256, dtype=np.uint16)
    if dtype == "F8_E5M2":
        return (byte << np.uint16(8)).view(np.float16).astype(np.float32)
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent.astype(np.int16) - 7))
    size[(byte & 127) == 127] = math.nan
    return np.where(byte < 128, size, -size).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Float8Weight(PackedTensor):
    """``w = byte's value · scale``; ``stored`` is the bytes (rows, columns) and the scales.

    ``block`` is how many rows and columns share a scale: scales are (⌈rows / block[0]⌉, ⌈columns / block[1]⌉).
    """

    block: tuple[int, int]

    def rows(self, start: int, stop: int) -> Floats:
        """Rows as float32."""
        codes, scales = self.stored
        raw = codes.read(start * codes.row_nbytes, (stop - start) * codes.row_nbytes)
        out = values_of(codes.dtype)[raw].reshape(stop - start, self.shape[1])
        height, width = self.block
        across = -(-self.shape[1] // width)
        first, last = start // height, -(-stop // height)
        item = scales.nbytes // math.prod(scales.shape)
        found = to_float32(scales.read(first * across * item, (last - first) * across * item), scales.dtype)
        by_row = found.reshape(-1, across)[np.arange(start, stop) // height - first]  # (rows, blocks across)
        for index in range(across):
            out[:, index * width : (index + 1) * width] *= by_row[:, index : index + 1]
        return out

    def grid(self) -> str:
        """Floats are on no grid."""
        return "floats of 8 bits are not evenly spaced"


def float8_weight(codes: StoredTensor, scales: StoredTensor, block: tuple[int, int], name: str) -> Float8Weight:
    """A weight whose scales are for blocks of so many rows and columns.

    Raises:
        InputError: the tensors are not of that form.

    """
    if len(codes.shape) != 2:
        raise wrong(codes, "8-bit floats are read of matrices only", "export the original checkpoint")
    blocks = -(-codes.shape[0] // block[0]), -(-codes.shape[1] // block[1])
    if scales.dtype not in READABLE or math.prod(scales.shape) != math.prod(blocks):
        raise wrong(scales, f"{codes.name} {list(codes.shape)} in blocks of {list(block)} has scales {list(blocks)}")
    whole = [asked >= size for asked, size in zip(block, codes.shape, strict=True)]
    per = "tensor" if all(whole) else "row" if block[0] == 1 and whole[1] else f"block of {block[0]} × {block[1]}"
    how = f"FP8 ({codes.dtype.removeprefix('F8_')}), a scale a {per}"
    return Float8Weight(**packed_as(name, codes.shape, (codes, scales), how), block=block)
