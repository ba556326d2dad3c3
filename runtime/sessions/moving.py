"""Keys at other positions than those at which they were computed: turned back by as many as lie between."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.rotations import KeyRotation, pair_channels

Array = NDArray[Any]
_LEAST, _MOST = -128, 127  # of a byte


def moved_back(
    keys: Array,
    rotation: KeyRotation,
    places: "int | NDArray[np.int64]",
    scales: NDArray[np.float32] | None = None,
) -> Array:
    """``keys`` (…, rows, width) as they are ``places`` positions earlier, in the same type.

    Args:
        keys: rotated at their positions. Floats, or integers: what is rotated of them is rounded anew.
        rotation: by which.
        places: of all of them alike, or of each row, (…, rows).
        scales: (…, 1, width), what each channel of integers is multiplied by; None for floats.

    """
    angles = np.asarray(places, np.float64)[..., None] * np.array(rotation.inverse_frequencies)  # (…, pairs)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    one, other = pair_channels(angles.shape[-1], rotation.interleaved)
    first, second = (keys[..., half].astype(np.float32, copy=False) for half in (one, other))
    if scales is not None:
        first, second = first * scales[..., one], second * scales[..., other]
    found = keys.copy()
    for half, turned in ((one, first * cos + second * sin), (other, second * cos - first * sin)):
        found[..., half] = turned if scales is None else np.clip(np.rint(turned / scales[..., half]), _LEAST, _MOST)
    return found
