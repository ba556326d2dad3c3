"""How well two machines agree on the same numbers."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.generic]


@dataclass(frozen=True)
class Agreement:
    """Of an array with the one that was expected.

    - ``sqnr_db``: 10 log10(Σ expected² / Σ (found − expected)²); infinite when they are equal, minus infinite when
      one has an infinity or NaN where the other has not
    - ``largest_difference``: max |found − expected|
    - ``top1``: share of rows whose largest entry is at the same place; None for what is not rows of scores
    """

    values: int
    bit_equal: bool
    sqnr_db: float
    largest_difference: float
    top1: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values; what is not finite is None, as JSON has no word for it."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    def describe(self) -> str:
        """In a few words, for a terminal."""
        if self.bit_equal:
            return f"bit-equal, {self.values:,} numbers"
        words = f"SQNR {self.sqnr_db:.1f} dB, largest difference {self.largest_difference:.3g}"
        return words if self.top1 is None else f"{words}, same top token in {self.top1:.1%} of rows"


def agreement(expected: Numbers, found: Numbers, *, scores: bool = False) -> Agreement:
    """Compare arrays of one shape and type; ``scores`` says that rows along the last axis are scores to choose by.

    Raises:
        ValueError: shapes or types differ.

    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise ValueError(f"{found.dtype}{found.shape} cannot be compared with {expected.dtype}{expected.shape}")
    top1 = None
    if scores and expected.size:
        top1 = float(np.mean(expected.argmax(-1) == found.argmax(-1)))
    if expected.tobytes() == found.tobytes():
        return Agreement(expected.size, True, math.inf, 0.0, top1)
    left, right = _doubles(expected), _doubles(found)
    with np.errstate(invalid="ignore"):  # ∞ − ∞, which is no difference
        difference = np.where((left == right) | (np.isnan(left) & np.isnan(right)), 0.0, right - left)
    noise, signal = float(np.sum(difference**2)), float(np.sum(np.where(np.isfinite(left), left, 0.0) ** 2))
    largest = float(np.max(np.abs(difference)))
    if not math.isfinite(noise):
        return Agreement(expected.size, False, -math.inf, math.inf, top1)
    if noise == 0:  # zeros of another sign, NaNs of another payload
        return Agreement(expected.size, False, math.inf, 0.0, top1)
    return Agreement(expected.size, False, -math.inf if signal == 0 else 10 * math.log10(signal / noise), largest, top1)


def _doubles(array: Numbers) -> NDArray[np.float64]:
    return array.astype(np.float64)
