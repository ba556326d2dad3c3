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


def minmax_error(block: Doubles, bits: int, weights: Doubles) -> float:
    """Weighted squared error of plain rounding with an integer zero point: the codes span least to greatest and 0."""
    low, high, top = min(block.min(), 0.0), max(block.max(), 0.0), 2**bits - 1
    if low == high:
        return 0.0
    scale = (high - low) / top
    zero = np.rint(-low / scale)
    codes = np.clip(np.rint(block / scale), -zero, top - zero)
    return float((weights * (block - codes * scale) ** 2).sum())


def best_error(
    block: Doubles,
    bits: int,
    weights: Doubles,
    *,
    symmetric: bool = True,
    positive: bool = False,
    steps: int = 1000,
) -> float:
    """Least Σ w error² over a fine grid of scales (of both signs unless ``positive``) and zero points."""
    largest, top = np.abs(block).max(), 2**bits - 1
    if largest == 0:
        return 0.0
    best = np.inf
    for zero in [2 ** (bits - 1)] if symmetric else range(0, top + 1, max(1, top // 64)):
        scales = largest / np.linspace(0.2, 2.4, steps) / max(zero, top - zero)
        scales = (np.concatenate([scales, -scales]) if symmetric and not positive else scales)[
            :, None
        ]  # (candidates, 1)
        codes = np.clip(np.rint(block / scales), -zero, top - zero)
        best = min(best, float((weights * (block - codes * scales) ** 2).sum(axis=1).min()))
    return best


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Truncate float32 to the bits of bfloat16."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)
