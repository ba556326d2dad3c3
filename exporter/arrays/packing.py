"""Codes in bytes, as onnxruntime's MatMulNBits and GatherBlockQuantized read them.

Within a block codes follow the columns, the first one in the lowest bits of its byte: with 4 bits, byte j holds column
2j in its low nibble and column 2j + 1 in its high one; with 2 bits it holds columns 4j to 4j + 3. Zero points are
packed the same way along the blocks of a row. ``w = (code − zero point) · scale``, the zero point being
2^(bits−1) when the scheme is symmetric; the columns that pad the last block have the code that means 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.arrays.scheme import Scheme

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Quantized:
    """Rows as they are stored; the layout is above. ``zero_points`` is None for symmetric schemes."""

    values: NDArray[np.uint8]  # (rows, blocks, bytes in a block)
    scales: NDArray[np.float32]  # (rows, blocks)
    zero_points: NDArray[np.uint8] | None = None  # (rows, bytes in a row)

    def part(self, start: int, stop: int) -> Quantized:
        """Rows ``start`` to ``stop``."""
        zeros = None if self.zero_points is None else self.zero_points[start:stop]
        return Quantized(self.values[start:stop], self.scales[start:stop], zeros)


def rows_by_turns(arrays: Sequence[NDArray[T]]) -> NDArray[T]:
    """Rows of arrays of one shape, the first row of each, then the second of each; one array is itself."""
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1).reshape(-1, *arrays[0].shape[1:])


def by_turns(stored: Sequence[Quantized]) -> Quantized:
    """As :func:`rows_by_turns`, of rows as they are stored."""
    zeros = [one.zero_points for one in stored if one.zero_points is not None]
    return Quantized(
        rows_by_turns([one.values for one in stored]),
        rows_by_turns([one.scales for one in stored]),
        rows_by_turns(zeros) if zeros else None,
    )


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes below 2^bits, (…, n), as bytes, (…, n · bits / 8); n · bits must be a multiple of 8."""
    width = bits
    while width < 8:  # neighbours into one
        codes = np.bitwise_or(codes[..., 0::2], codes[..., 1::2] << np.uint8(width))
        width *= 2
    return codes


def unpack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Bytes, (…, n), as the codes in them, (…, n · 8 / bits): the inverse of :func:`pack`."""
    if bits == 8:
        return values
    if bits == 2:
        shifts = np.array([0, 2, 4, 6], np.uint8)
        codes: NDArray[np.uint8] = (values[..., None] >> shifts) & np.uint8(3)  # (…, n, 4)
        return codes.reshape(*values.shape[:-1], 4 * values.shape[-1])
    pairs = values.astype("<u2")  # low byte ← low nibble, high byte ← high nibble
    np.bitwise_or(pairs, pairs << np.uint16(4), out=pairs)
    np.bitwise_and(pairs, np.uint16(0x0F0F), out=pairs)
    return pairs.view(np.uint8)


def pack_zero_points(zero_points: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Zero points (rows, blocks) as bytes, (rows, ⌈blocks · bits / 8⌉)."""
    padding = -zero_points.shape[1] % (8 // bits)
    return pack(np.pad(zero_points, ((0, 0), (0, padding))), bits)


def unpack_zero_points(packed: NDArray[np.uint8], bits: int, blocks: int) -> NDArray[np.uint8]:
    """Bytes (rows, n) as zero points, (rows, blocks): the inverse of :func:`pack_zero_points`."""
    return unpack(packed, bits)[:, :blocks]


def dequantize(
    values: NDArray[np.uint8],
    scales: NDArray[np.float32],
    scheme: Scheme,
    columns: int,
    zero_points: NDArray[np.uint8] | None = None,
) -> NDArray[np.float32]:
    """Packed rows, (rows, blocks, bytes), and their scales, (rows, blocks), as float32 (rows, columns).

    ``zero_points`` is packed too, (rows, bytes in a row), and None for a symmetric scheme.
    """
    rows, blocks = scales.shape
    codes = unpack(values, scheme.bits)
    if zero_points is None:
        steps = np.subtract(codes, np.uint8(scheme.zero_point), out=codes if scheme.bits != 8 else None)
        weights = steps.view(np.int8).astype(np.float32)  # (rows, blocks, block size)
    else:
        weights = codes.astype(np.float32)
        weights -= unpack_zero_points(zero_points, scheme.bits, blocks)[:, :, None]
    np.multiply(weights, scales[:, :, None], out=weights)
    return weights.reshape(rows, blocks * scheme.block_size)[:, :columns]
