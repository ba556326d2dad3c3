"""Weights of integer products: 8-bit codes with one positive scale a row, laid out as (columns, rows).

ONNX's MatMulInteger and onnxruntime's DynamicQuantizeMatMul read x (…, columns) times W (columns, rows), where a
block-wise weight is (rows, columns). ``w = (code − 128) · scale`` with codes from 1 to 255: the numbers that int8 with
no zero point has. As int8 they overflow on x86-64 without VNNI, which adds products of uint8 by int8 up in 16 bits:
measured on tiny1m, 8 nats a token. uint8 by uint8 is exact everywhere, an eighth slower there at one
token, and as fast on 64-bit ARM with dot products. Scales are positive, as accelerators ask for: a row that was rounded
with a negative one has its codes negated, and a step of −128 becomes ±127.

With VNNI uint8 by uint8 takes 2.6 times as long as uint8 by int8, and on ARM without dot products (Cortex-A53, A72) 1.5
to 1.8 times the instructions. :func:`to_pairs` makes int8 codes whose sums of 16
bits hold: these kernels add up the products of columns 2j and 2j + 1, so two neighbours c and d need
|c + d| · 255 ≤ 32767. Few pairs of a wide row break that, and a slightly larger scale costs less than a whole bit.
"""

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.arrays.packing import Quantized

ZERO_POINT = 128
PAIR = 128
"""What two neighbours may add up to: 255 · 128 is within 16 bits with a sign."""

_LARGEST = 127
_WIDENED = tuple(float(factor) for factor in np.geomspace(1, 2 * _LARGEST / PAIR, 16))  # at the last no pair breaks it


def to_integer(stored: Quantized, columns: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Symmetric 8-bit rows with one scale each as codes, uint8 (rows, columns), and scales, float32 (rows,)."""
    rows = len(stored.values)
    scales = stored.scales[:, 0]
    steps = stored.values.reshape(rows, -1)[:, :columns].astype(np.int16) - np.int16(ZERO_POINT)
    steps[scales < 0] *= -1
    steps[scales == 0] = 0
    codes = np.clip(steps, -_LARGEST, _LARGEST) + np.int16(ZERO_POINT)
    scales = np.where(scales == 0, np.float32(1), np.abs(scales))  # a row of zeros: scales must be above 0
    return codes.astype(np.uint8), scales


def dequantize(codes: NDArray[np.uint8] | NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Codes (rows, columns), uint8 around 128 or int8 around 0, and scales (rows,) as float32 (rows, columns)."""
    zero_point = np.float32(0 if codes.dtype == np.int8 else ZERO_POINT)
    return (codes.astype(np.float32) - zero_point) * scales[:, None]


def to_pairs(
    codes: NDArray[np.uint8], scales: NDArray[np.float32], rows: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes and scales of :func:`to_integer` as int8 (rows, columns) of which every pair fits into 16 bits, and scales.

    A row with a pair that does not fit is rounded again with the one of ``_WIDENED`` scales that brings it nearest to
    ``rows``, (rows, columns), or to what its codes stand for where these were learned and ``rows`` is None.
    """
    steps = (codes.astype(np.int16) - np.int16(ZERO_POINT)).astype(np.int8)
    broken = np.flatnonzero(_excess(steps.astype(np.int16)).any(1))
    if not len(broken):
        return steps, scales
    scales = scales.copy()
    aims = steps[broken] * scales[broken, None] if rows is None else rows[broken]  # (broken, columns)
    least = np.full(len(broken), np.inf)
    narrow = scales[broken]
    for factor in _WIDENED:
        wide = narrow * np.float32(factor)
        found = _fitted(np.rint(aims / wide[:, None]))
        noise = np.square(found * wide[:, None] - aims, dtype=np.float64).sum(1)
        better = noise < least
        least[better] = noise[better]
        steps[broken[better]] = found[better]
        scales[broken[better]] = wide[better]
    return steps, scales


def fits(codes: NDArray[np.int8]) -> bool:
    """Whether every pair of neighbours in the rows of ``codes``, (rows, columns), fits into sums of 16 bits."""
    return not _excess(codes.astype(np.int16)).any()


def _excess(steps: NDArray[np.int16]) -> NDArray[np.int16]:
    """By how much the neighbours 2j and 2j + 1 add up to more than ``PAIR``, (rows, pairs)."""
    even = steps[:, 0 : steps.shape[1] // 2 * 2 : 2]
    found: NDArray[np.int16] = np.maximum(np.abs(even + steps[:, 1::2]) - np.int16(PAIR), 0)
    return found


def _fitted(steps: NDArray[np.float32]) -> NDArray[np.int8]:
    """The nearest codes of which every pair fits: both of one that does not give up half of the excess."""
    codes = np.clip(steps, -_LARGEST, _LARGEST).astype(np.int16)
    excess = _excess(codes)
    even, odd = codes[:, 0 : codes.shape[1] // 2 * 2 : 2], codes[:, 1::2]
    sign, half = np.sign(even + odd), excess // 2
    even -= sign * half
    odd -= sign * (excess - half)
    return codes.astype(np.int8)
