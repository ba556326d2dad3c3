"""Codes in bytes, as onnxruntime's MatMulNBits and GatherBlockQuantized read them.

Within a block codes follow the columns; with 4 bits, byte j holds column 2j in its low nibble and column 2j + 1 in its
high one. ``w = (code − 2^(bits−1)) · scale``; the columns that pad the last block have the code that means 0.
"""

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.scheme import Scheme


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes below 2^bits, (…, block size), as bytes, (…, block size · bits / 8)."""
    if bits == 8:
        return codes
    return codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))


def unpack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Bytes, (…, n), as the codes in them, (…, n · 8 / bits): the inverse of :func:`pack`."""
    if bits == 8:
        return values
    pairs = values.astype("<u2")  # low byte ← low nibble, high byte ← high nibble
    np.bitwise_or(pairs, pairs << np.uint16(4), out=pairs)
    np.bitwise_and(pairs, np.uint16(0x0F0F), out=pairs)
    return pairs.view(np.uint8)


def dequantize(
    values: NDArray[np.uint8], scales: NDArray[np.float32], scheme: Scheme, columns: int
) -> NDArray[np.float32]:
    """Packed rows, (rows, blocks, bytes), and their scales, (rows, blocks), as float32 (rows, columns)."""
    rows, blocks = scales.shape
    steps = unpack(values, scheme.bits)
    steps = np.subtract(steps, np.uint8(scheme.zero_point), out=steps if scheme.bits == 4 else None)
    weights = steps.view(np.int8).astype(np.float32)  # (rows, blocks, block size)
    np.multiply(weights, scales[:, :, None], out=weights)
    return weights.reshape(rows, blocks * scheme.block_size)[:, :columns]
