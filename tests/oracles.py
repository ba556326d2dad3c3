"""Independent truth for the arithmetic under test: float64, an element or a block at a time, nothing shared with it."""

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def dequantize(values: NDArray[np.uint8], scales: NDArray[np.float32], bits: int, size: int, columns: int) -> Doubles:
    """MatMulNBits' definition, element by element: code · 2^(bits−1) less, times its block's scale."""
    rows = values.shape[0]
    found = np.empty((rows, columns))
    for row in range(rows):
        for column in range(columns):
            block, place = divmod(column, size)
            if bits == 4:
                byte = int(values[row, block, place // 2])
                code = byte >> 4 if place % 2 else byte & 15
            else:
                code = int(values[row, block, place])
            found[row, column] = (code - 2 ** (bits - 1)) * float(scales[row, block])
    return found


def absmax_error(block: Doubles, bits: int, weights: Doubles) -> float:
    """Weighted squared error of plain rounding with the scale largest magnitude / (2^(bits−1) − 1)."""
    scale = np.abs(block).max() / (2 ** (bits - 1) - 1)
    if scale == 0:
        return 0.0
    return float((weights * (block - np.rint(block / scale) * scale) ** 2).sum())


def best_error(block: Doubles, bits: int, weights: Doubles, steps: int = 2000) -> float:
    """Least weighted squared error over a fine grid of scales of both signs, codes rounded to nearest and clipped."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    largest = np.abs(block).max()
    if largest == 0:
        return 0.0
    scales = largest / np.linspace(0.5 * -low, 1.6 * -low, steps)
    scales = np.concatenate([scales, -scales])[:, None]  # (candidates, 1)
    codes = np.clip(np.rint(block / scales), low, high)
    return float((weights * (block - codes * scales) ** 2).sum(axis=1).min())


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Truncate float32 to the bits of bfloat16."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)
