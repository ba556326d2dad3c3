"""Weights of integer products: 8-bit codes with one positive scale a row, laid out as (columns, rows).

ONNX's MatMulInteger and onnxruntime's DynamicQuantizeMatMul read x (…, columns) times W (columns, rows), where a
block-wise weight is (rows, columns). ``w = (code − 128) · scale`` with codes from 1 to 255: the numbers that int8 with
no zero point has. They are stored as uint8 because x86-64 without VNNI multiplies uint8 by int8 into sums of 16 bits,
which overflow: measured on tiny1m, 8 nats a token. uint8 by uint8 is exact everywhere, an eighth slower there at one
token, and as fast on 64-bit ARM. Scales are positive, as accelerators ask for: a row that was rounded with a
negative one has its codes negated, and a step of −128 becomes ±127.
"""

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.arrays.packing import Quantized

ZERO_POINT = 128
_LARGEST = 127


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


def dequantize(codes: NDArray[np.uint8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Codes (rows, columns) and scales (rows,) as float32 (rows, columns)."""
    return (codes.astype(np.float32) - np.float32(ZERO_POINT)) * scales[:, None]
