"""Half-quadratic quantization: against its own objective in float64, brute force, and rtn."""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.exporter.arrays.packing import dequantize
from edgepress.exporter.arrays.scheme import BITS, Scheme
from edgepress.exporter.methods.kinds import Quantized, load_method
from edgepress.exporter.methods.round import hqq

QUANTIZE, RTN = load_method("hqq").quantize, load_method("rtn").quantize


def heavy(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(3, (rows, columns)).astype(np.float32)


def objectives(x: np.ndarray, stored: Quantized, scheme: Scheme, importance: np.ndarray | None) -> np.ndarray:
    """Σ w |x − x̂|^p of each group, in float64: (rows · groups,)."""
    restored = dequantize(stored.values, stored.scales, scheme, x.shape[1], stored.zero_points)
    w = 1.0 if importance is None else importance.astype(np.float64)
    errors = w * np.abs(x.astype(np.float64) - restored) ** hqq.POWER  # (rows, columns)
    size = x.shape[1] if scheme.per_channel else scheme.block_size
    return np.add.reduceat(errors, range(0, x.shape[1], size), axis=1).ravel()


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from(BITS),
    symmetric=st.booleans(),
    per_channel=st.booleans(),
    columns=st.integers(1, 100),
    weighted=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_the_objective_of_no_group_is_above_that_of_rtn(
    bits: int, symmetric: bool, per_channel: bool, columns: int, weighted: bool, seed: int
) -> None:
    x, scheme = heavy(4, columns, seed), Scheme("hqq", bits, 32, symmetric, per_channel)
    importance = np.random.default_rng(seed).gamma(2.0, size=columns).astype(np.float32) + 0.1 if weighted else None
    ours, start = (objectives(x, quantize(x, scheme, importance), scheme, importance) for quantize in (QUANTIZE, RTN))
    slack = 1e-4 * np.abs(x).max() ** hqq.POWER  # what float32 leaves of an error that is 0
    assert (ours <= start * 1.0001 + slack).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "ratio"), [(2, 0.97), (4, 0.995)])
def test_the_objective_falls_and_brute_force_bounds_it(bits: int, ratio: float, symmetric: bool) -> None:
    x, scheme = heavy(8, 128), Scheme("hqq", bits, 32, symmetric)
    ours, start = (objectives(x, quantize(x, scheme, None), scheme, None).sum() for quantize in (QUANTIZE, RTN))
    best = sum(
        oracles.best_error(block, bits, np.ones(32), symmetric=symmetric, power=hqq.POWER)
        for block in x.astype(np.float64).reshape(-1, 32)
    )
    assert best <= ours * 1.001
    assert ours <= start * ratio


def test_zero_points_move() -> None:
    x, scheme = heavy(16, 128), Scheme("hqq", 4, 32, symmetric=False)
    assert (QUANTIZE(x, scheme, None).zero_points != RTN(x, scheme, None).zero_points).any()


@pytest.mark.parametrize("magnitude", [1e30, 1e-30])
def test_the_magnitude_changes_nothing_but_the_scale(magnitude: float) -> None:
    exponent = int(np.log2(magnitude))
    scheme, x = Scheme("hqq", 4, 32, symmetric=False), heavy(4, 64)
    plain, scaled = QUANTIZE(x, scheme, None), QUANTIZE(np.ldexp(x, exponent), scheme, None)
    np.testing.assert_array_equal(plain.zero_points, scaled.zero_points)
    np.testing.assert_allclose(np.ldexp(plain.scales, exponent), scaled.scales, rtol=1e-3)


def test_same_bits_in_tiles_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme, x = Scheme("hqq", 4, 32, symmetric=False), heavy(7, 96)
    whole = QUANTIZE(x, scheme, None)
    for blocks in (1, 2, 3, 5):
        monkeypatch.setattr(hqq, "_TILE", blocks * 32)
        tiled = QUANTIZE(x, scheme, None)
        np.testing.assert_array_equal(tiled.values, whole.values)
        np.testing.assert_array_equal(tiled.scales, whole.scales)
