"""Which real values the integers of an activation stand for, found from what calibration text sends there.

A streaming histogram, and functions from it to a range (low, high):

- ``minmax``: everything that was seen;
- ``percentile``: what is left when the rarest values are cut off on both sides;
- ``mse``: the range with the least expected squared error, rounding inside it and clipping outside;
- ``entropy``: the clipping of |x| that keeps the distribution nearest in KL divergence (Migacz, "8-bit inference with
  TensorRT", GTC 2017), and cuts off a hundredth of the values at most: the divergence alone does not see it where
  much more is cut off, if what is kept lies in one place.

All in float64. A range always holds 0, which must be exact: masked and padded values are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError

Doubles = NDArray[np.float64]

BINS = 4096
_LEAST_COUNT = 1e-4
_MOST_CUT = 0.01  # of the values, by entropy
_SHARES = np.linspace(1 / 64, 1, 64)  # of the largest value on a side, among which ``mse`` searches


@dataclass
class Histogram:
    """Counts of values in ``BINS`` bins of equal width around 0, and the extremes.

    Bin i holds [(i − BINS/2) · width, (i + 1 − BINS/2) · width). When a value lies outside, neighbours are merged until
    it fits: the width is a power of two times the first one, so bins never straddle 0.
    """

    counts: Doubles = field(default_factory=lambda: np.zeros(BINS))
    width: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count ``values`` of any shape, which must be finite."""
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not np.isfinite(low + high):
            raise InputError("activations are NaN or infinite on the calibration text; take another one")
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-self.low, self.high)
        if largest == 0:
            self.counts[BINS // 2] += flat.size
            return
        if self.width == 0:
            self.width = 2 * largest / BINS * (1 + 2.0**-20)  # so that the largest value is inside
        while largest >= self.width * BINS / 2:
            merged = self.counts.reshape(-1, 2).sum(1)  # (BINS / 2,)
            self.counts = np.concatenate([np.zeros(BINS // 4), merged, np.zeros(BINS // 4)])
            self.width *= 2
        places = np.floor(flat / np.float64(self.width)).astype(np.int64) + BINS // 2
        self.counts += np.bincount(places, minlength=BINS)

    @property
    def edges(self) -> Doubles:
        """Where bins begin and end, (BINS + 1,)."""
        return np.asarray((np.arange(BINS + 1) - BINS // 2) * self.width, np.float64)

    @property
    def centres(self) -> Doubles:
        """The middle of each bin, (BINS,)."""
        return np.asarray((np.arange(BINS) + 0.5 - BINS // 2) * self.width, np.float64)


def find_range(histogram: Histogram, ranges: str, share: float, bits: int) -> tuple[float, float]:
    """The range that ``ranges`` names, for integers of ``bits``; ``share`` is the percentile's."""
    if histogram.high == histogram.low:  # nothing but zeros
        return 0.0, 0.0
    if ranges == "percentile":
        return percentile(histogram, share)
    if ranges == "mse":
        return least_square(histogram, bits)
    if ranges == "entropy":
        return least_divergence(histogram, bits)
    return histogram.low, histogram.high


def to_scale(low: float, high: float, bits: int) -> tuple[np.float32, int]:
    """Scale and zero point of unsigned integers of ``bits`` that reach from ``low`` ≤ 0 to ``high`` ≥ 0."""
    top = 2**bits - 1
    scale = np.float32((high - low) / top)
    if scale == 0:
        return np.float32(1), 0
    return scale, int(np.clip(np.rint(-low / scale), 0, top))


def percentile(histogram: Histogram, share: float) -> tuple[float, float]:
    """The range that holds ``share`` percent of the values, as many cut off below as above."""
    below = np.concatenate([[0.0], np.cumsum(histogram.counts)])  # (BINS + 1,) values below each edge
    cut = below[-1] * (100 - share) / 200
    # What lies in one bin is taken to be spread evenly over it.
    low = float(np.interp(cut, below, histogram.edges))
    high = float(np.interp(below[-1] - cut, below, histogram.edges))
    return min(max(low, histogram.low), 0.0), max(min(high, histogram.high), 0.0)


def least_square(histogram: Histogram, bits: int) -> tuple[float, float]:
    """The range of least squared error: step² / 12 for each value inside, its distance squared for each outside."""
    lows, highs = histogram.low * _SHARES, histogram.high * _SHARES
    outside_low = _clipped(histogram, -histogram.centres, -lows)  # (shares,)
    outside_high = _clipped(histogram, histogram.centres, highs)
    step = (highs[None, :] - lows[:, None]) / (2**bits - 1)  # (lows, highs)
    error = outside_low[:, None] + outside_high[None, :] + histogram.counts.sum() * step**2 / 12
    i, j = np.unravel_index(int(np.argmin(error)), error.shape)
    return float(lows[i]), float(highs[j])


def _clipped(histogram: Histogram, values: Doubles, limits: Doubles) -> Doubles:
    """Σ n (value − limit)² over the values beyond each limit, (limits,)."""
    over = np.maximum(values[None, :] - limits[:, None], 0)  # (limits, BINS)
    return np.asarray(np.square(over) @ histogram.counts, np.float64)


def least_divergence(histogram: Histogram, bits: int) -> tuple[float, float]:
    """Clip |x| where the divergence of what 2^(bits−1) steps can tell apart from what was seen is least."""
    half = BINS // 2
    counts = histogram.counts[half:] + histogram.counts[:half][::-1]  # of |x|, (BINS / 2,)
    inside = np.cumsum(counts)
    enough = int(np.searchsorted(inside, (1 - _MOST_CUT) * inside[-1])) + 1
    limit = max(least_divergent(counts, 2 ** (bits - 1)), enough) * histogram.width
    return max(histogram.low, -limit), min(histogram.high, limit)


def least_divergent(counts: Doubles, levels: int) -> int:
    """How many of the first bins to keep: the n ≥ ``levels`` with the least KL(P ‖ Q).

    P is the first n bins with all that lies beyond added to the last. Q has the bins without that, in ``levels``
    groups of n / ``levels`` bins, each group's mean put into those of its bins that are not empty. Where Q then has
    nothing and P something, Q gets a ten thousandth of a value (as MXNet's smoothing does), else KL were infinite.
    """
    bins = len(counts)
    used = int(np.flatnonzero(counts)[-1]) + 1
    best, best_n = np.inf, bins
    for n in range(levels, max(levels, used) + 1):
        p = counts[:n].copy()
        p[-1] += counts[n:].sum()
        group = np.arange(n) * levels // n  # (n,)
        filled = counts[:n] > 0
        sums = np.bincount(group, counts[:n], levels)
        sizes = np.bincount(group, filled, levels)
        q = np.where(filled, (sums / np.maximum(sizes, 1))[group], 0.0)
        mask = p > 0
        q[mask & ~filled] = _LEAST_COUNT  # the last bin, should it be empty but for what lies beyond
        p, q = p / p.sum(), q / q.sum()
        divergence = float(np.sum(p[mask] * np.log(p[mask] / q[mask])))
        if divergence < best:
            best, best_n = divergence, n
    return best_n
