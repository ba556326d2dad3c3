"""Keys at other positions than those at which they were computed: turned back by as many as lie between."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.rotations import KeyRotation, pair_channels

Array = NDArray[Any]


def moved_back(keys: Array, rotation: KeyRotation, places: "int | NDArray[np.int64]") -> Array:
    """``keys`` (…, rows, width) as they are ``places`` positions earlier, in the same type.

    Args:
        keys: floats, rotated at their positions.
        rotation: by which.
        places: of all of them alike, or of each row, (…, rows).

    """
    angles = np.asarray(places, np.float64)[..., None] * np.array(rotation.inverse_frequencies)  # (…, pairs)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    one, other = pair_channels(angles.shape[-1], rotation.interleaved)
    first, second = (keys[..., half].astype(np.float32, copy=False) for half in (one, other))
    found = keys.copy()
    found[..., one] = first * cos + second * sin
    found[..., other] = second * cos - first * sin
    return found
