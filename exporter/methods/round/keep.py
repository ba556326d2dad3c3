"""Codes and scales of a checkpoint that is quantized already, as they are, where MatMulNBits can hold them.

Its grid is theirs: ``w = (code − zero point) · scale`` with 2, 4 or 8 bits, blocks of 16 to 256 neighbouring columns
and zero points among the codes. A larger group is several blocks with one scale; codes of 3 bits are stored in 4, those
of 5 to 7 in 8, which changes no weight. Columns whose groups are scattered are stored by their groups, and what goes
into the product is brought into that order. What is on no such grid (floats of 8 bits, minimums that are no whole
steps) is rounded to nearest, and the plan says so and why.
"""

from __future__ import annotations

import numpy as np

from edgepress.exporter.arrays.packing import Quantized, pack, pack_zero_points
from edgepress.exporter.arrays.scheme import BITS, BLOCK_SIZES, Scheme
from edgepress.exporter.methods.kinds import Keeping, Method
from edgepress.exporter.methods.round import rtn
from edgepress.exporter.recipe.recipe import Storage
from edgepress.exporter.source.packed import Codes, Grid

_FAST_2_BITS = (32, 64, 128)  # blocks that onnxruntime has 2-bit kernels for


def storage_of(grid: Grid) -> Storage | str:
    """How a weight on ``grid`` is stored, or why it cannot be: the end of a sentence."""
    for bits in (bits for bits in BITS if bits >= grid.bits):
        allowed = _FAST_2_BITS if bits == 2 else BLOCK_SIZES
        block = 0 if not grid.group else max((size for size in allowed if grid.group % size == 0), default=None)
        if block is not None:
            return Storage("keep", bits, block, grid.symmetric)
    return f"groups of {grid.group} columns are no whole blocks of {BLOCK_SIZES[0]} or more"


def as_stored(codes: Codes, grid: Grid, scheme: Scheme) -> Quantized:
    """Rows of a tensor in the scheme that :func:`storage_of` gives for its grid: the same numbers.

    Codes of a symmetric scheme move with the middle, 2^(bits−1), where it has more bits.
    """
    rows, columns = codes.values.shape
    blocks, size = scheme.blocks(columns), grid.group or columns
    group = np.minimum(np.arange(blocks) * scheme.block_size // size, codes.scales.shape[1] - 1)  # of each block
    zeros = codes.zero_points
    moved = scheme.zero_point - grid.middle if scheme.symmetric else 0
    each = np.full((rows, blocks), scheme.zero_point if scheme.symmetric else grid.middle, np.uint8)
    if zeros is not None and not scheme.symmetric:
        each = np.take(zeros, group, axis=1).astype(np.uint8)
    padded = np.repeat(each, scheme.block_size, axis=1)  # padding is the code that means 0
    np.add(codes.values, np.uint8(moved), out=padded[:, :columns])
    return Quantized(
        pack(padded.reshape(rows, blocks, scheme.block_size), scheme.bits),
        np.take(codes.scales, group, axis=1),
        None if scheme.symmetric else pack_zero_points(each, scheme.bits),
    )


METHOD = Method("keep", rtn.quantize, keeping=Keeping(storage_of, as_stored))
