"""Ranges against plain computations on the values themselves."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.exporter.arrays.ranges import (
    BINS,
    Histogram,
    find_range,
    least_divergent,
    least_square,
    percentile,
    to_scale,
)


def seen(values: np.ndarray, pieces: int = 3) -> Histogram:
    histogram = Histogram()
    for piece in np.array_split(values.astype(np.float32), pieces):
        histogram.add(piece)
    return histogram


def draw(seed: int, size: int = 20_000) -> np.ndarray:
    """Values as activations have them: a heavy tail, more on one side, shifted a little."""
    random = np.random.default_rng(seed)
    values = random.standard_t(3, size) * 10.0 ** random.uniform(-3, 3)
    return np.where(values < 0, values * random.uniform(0.05, 1), values)


def squared_error(values: np.ndarray, low: float, high: float, bits: int) -> float:
    scale, zero_point = to_scale(low, high, bits)
    codes = np.clip(np.rint(values / np.float64(scale)) + zero_point, 0, 2**bits - 1)
    return float(np.mean((values - (codes - zero_point) * np.float64(scale)) ** 2))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_a_histogram_counts_everything_where_it_is_however_it_grew(seed: int, pieces: int) -> None:
    values = np.sort(np.abs(draw(seed, 500)))  # in growing order, so that bins must be merged
    values[::2] *= -1
    histogram = seen(values, min(pieces, 5))
    values = values.astype(np.float32).astype(np.float64)
    expected, _ = np.histogram(values, histogram.edges)
    assert histogram.counts.sum() == len(values)
    assert np.abs(histogram.counts - expected).sum() <= 2  # a value on an edge may round to its neighbour
    assert (histogram.low, histogram.high) == (min(values.min(), 0), max(values.max(), 0))
    assert histogram.width <= 4 * np.abs(values).max() / BINS


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(90, 100))
def test_a_percentile_is_that_of_the_values(seed: int, share: float) -> None:
    values = draw(seed)
    histogram = seen(values)
    low, high = percentile(histogram, share)
    cut = (100 - share) / 2
    for found, place in ((low, cut), (high, 100 - cut)):
        below, above = (np.percentile(values, place, method=side) for side in ("lower", "higher"))
        assert below - histogram.width <= found <= above + histogram.width
    assert histogram.low <= low <= 0 <= high <= histogram.high


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_least_square_is_near_the_best_of_a_search_over_the_values(seed: int) -> None:
    values = draw(seed, 5000)
    histogram = seen(values)
    found = squared_error(values, *least_square(histogram, 8), 8)
    shares = np.linspace(1 / 40, 1, 40)
    searched = min(
        squared_error(values, histogram.low * a, histogram.high * b, 8) for a in shares[3::4] for b in shares[1::2]
    )
    assert found <= 1.1 * searched
    assert found <= squared_error(values, histogram.low, histogram.high, 8) * 1.02


def divergence_by_hand(counts: list[float], levels: int) -> int:
    """Migacz's pseudo code, loop by loop."""
    last = max(index for index, count in enumerate(counts) if count)
    best, kept = math.inf, len(counts)
    for n in range(levels, max(levels, last + 1) + 1):
        p = counts[:n]
        p = [*p[:-1], p[-1] + sum(counts[n:])]
        groups: list[list[int]] = [[] for _ in range(levels)]
        for index in range(n):
            groups[index * levels // n].append(index)
        q = [0.0] * n
        for group in groups:
            filled = [index for index in group if counts[index]]
            for index in filled:
                q[index] = sum(counts[other] for other in group) / len(filled)
        q = [1e-4 if x and not y else y for x, y in zip(p, q, strict=True)]
        a, b = sum(p), sum(q)
        divergence = sum(x / a * math.log((x / a) / (y / b)) for x, y in zip(p, q, strict=True) if x)
        if divergence < best - 1e-12:
            best, kept = divergence, n
    return kept


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=12, max_size=40).filter(any), st.sampled_from([4, 8]))
def test_least_divergence_is_that_of_the_pseudo_code(counts: list[int], levels: int) -> None:
    values = [float(count) for count in counts]
    found, expected = least_divergent(np.array(values), levels), divergence_by_hand(values, levels)
    assert found == expected or (found < len(counts) and expected < len(counts) and abs(found - expected) <= 1)


def test_entropy_clips_a_lone_outlier_and_minmax_does_not() -> None:
    values = np.append(np.random.default_rng(0).normal(size=50_000), 100.0)
    histogram = seen(values)
    assert find_range(histogram, "minmax", 100, 8)[1] == 100
    assert find_range(histogram, "entropy", 100, 8)[1] < 20
    assert find_range(histogram, "percentile", 99.9, 8)[1] < 5
    assert find_range(histogram, "mse", 100, 16)[1] > 90  # 65535 steps have room for it


def test_entropy_keeps_values_that_lie_in_several_places() -> None:
    """Logits of a classifier: nearly all within the first bins in the last of them is what folding the rest gives."""
    random = np.random.default_rng(0)
    places = [random.normal(place, 0.001, 1000) for place in (-1.4, 0.3, 2.5)]
    low, high = find_range(seen(np.concatenate(places)), "entropy", 100, 8)
    assert (low, high) == (pytest.approx(-1.4, abs=0.01), pytest.approx(2.5, abs=0.01))


@given(st.floats(-1e6, 0), st.floats(0, 1e6), st.sampled_from([8, 16]))
def test_zero_is_exact_and_the_range_is_covered(low: float, high: float, bits: int) -> None:
    scale, zero_point = to_scale(low, high, bits)
    assert scale > 0
    assert 0 <= zero_point <= 2**bits - 1
    if high - low > 1e-30:
        assert (0 - zero_point) * float(scale) >= low - float(scale)
        assert (2**bits - 1 - zero_point) * float(scale) >= high - float(scale)


def test_zeros_have_a_range_and_infinite_values_are_refused() -> None:
    assert to_scale(*find_range(seen(np.zeros(9)), "mse", 100, 8), 8) == (1, 0)
    with pytest.raises(InputError, match="NaN or infinite"):
        Histogram().add(np.array([1, np.nan], np.float32))
