"""Maps of numbers resized to an image: what ``torch.nn.functional.interpolate`` does without aligned corners.

Each axis is a product with a matrix of weights. Bilinear: [1 − t, t] between two pixel centres. Bicubic: Keys' kernel
with a = −0.75 [Keys 1981, eq. 4]; pixels beyond an edge are those at it. Neither is antialiased.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Kernel = Literal["bilinear", "bicubic"]
_A = -0.75


def resize_map(values: NDArray[np.generic], height: int, width: int, kernel: Kernel) -> Floats:
    """A map, (h, w), as (height, width)."""
    rows = weights(values.shape[0], height, kernel)
    columns = weights(values.shape[1], width, kernel)
    return np.asarray(rows @ np.asarray(values, np.float32) @ columns.T)


def best_class(logits: NDArray[np.generic], height: int, width: int) -> NDArray[np.int32]:
    """The likeliest class of each pixel, (height, width), of maps that are resized first, (classes, h, w).

    Classes come one after the other, so that their maps in full size are never there together.
    """
    best = resize_map(logits[0], height, width, "bilinear")
    classes = np.zeros((height, width), np.int32)
    for index in range(1, len(logits)):
        scores = resize_map(logits[index], height, width, "bilinear")
        better = scores > best
        classes[better] = index
        np.maximum(best, scores, out=best)
    return classes


@lru_cache(maxsize=8)
def weights(size: int, made: int, kernel: Kernel) -> Floats:
    """What each of ``size`` pixels counts in each of ``made``, (made, size)."""
    places = (np.arange(made) + 0.5) * (size / made) - 0.5
    if kernel == "bilinear":
        places = np.maximum(places, 0)
    first = np.floor(places).astype(np.int64)
    part = places - first
    taps = [(0, 1 - part), (1, part)] if kernel == "bilinear" else [(tap, _keys(part - tap)) for tap in (-1, 0, 1, 2)]
    table = np.zeros((made, size))
    for tap, share in taps:
        np.add.at(table, (np.arange(made), np.clip(first + tap, 0, size - 1)), share)
    return table.astype(np.float32)


def _keys(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel at a distance."""
    x = np.abs(distance)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
    return np.asarray(np.where(x <= 1, near, np.where(x < 2, far, 0)))
