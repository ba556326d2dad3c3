"""Every compression method found on disk is held to the same contract."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.exporter.compress import Method, load_method, method_names
from edgepress.exporter.compress.packing import dequantize
from edgepress.exporter.scheme import BITS, BLOCK_SIZES, Scheme

ROWS = [name for name in method_names() if isinstance(load_method(name), Method)]


def weights(seed: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from(BITS),
    block_size=st.sampled_from(BLOCK_SIZES),
    rows=st.integers(1, 9),
    columns=st.integers(1, 300),
    cut=st.integers(0, 9),
    seed=st.integers(0, 2**16),
)
def test_a_method_keeps_its_shapes_its_error_and_its_rows_apart(
    name: str, bits: int, block_size: int, rows: int, columns: int, cut: int, seed: int
) -> None:
    method, scheme = load_method(name), Scheme(name, bits, block_size)
    x = weights(seed, rows, columns)
    whole = method.quantize(x, scheme, None)
    assert whole.values.shape == scheme.values_shape(rows, columns)
    assert whole.scales.shape == scheme.scales_shape(rows, columns)
    assert (whole.values.dtype, whole.scales.dtype) == (np.uint8, np.float32)
    pieces = [method.quantize(piece, scheme, None) for piece in (x[:cut], x[cut:]) if len(piece)]
    np.testing.assert_array_equal(np.concatenate([piece.values for piece in pieces]), whole.values)
    np.testing.assert_array_equal(np.concatenate([piece.scales for piece in pieces]), whole.scales)
    # A step is about the largest magnitude over 2^(bits−1) − 1; clipping may cost one step more than rounding.
    error = np.abs(dequantize(whole.values, whole.scales, scheme, columns) - x)
    assert error.max() <= 1.5 * np.abs(x).max() / ((1 << (bits - 1)) - 1)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("bits", BITS)
def test_zeros_stay_zeros(name: str, bits: int) -> None:
    scheme = Scheme(name, bits, 32)
    stored = load_method(name).quantize(np.zeros((3, 70), np.float32), scheme, None)
    np.testing.assert_array_equal(dequantize(stored.values, stored.scales, scheme, 70), np.zeros((3, 70)))


@pytest.mark.parametrize("name", ROWS)
def test_importance_moves_the_error_to_where_it_matters_less(name: str) -> None:
    scheme, x = Scheme(name, 4, 32), weights(1, 64, 128)
    importance = np.where(np.arange(128) % 2 == 0, 100.0, 1.0).astype(np.float32)
    weighed, plain = (load_method(name).quantize(x, scheme, w) for w in (importance, None))

    def error(stored: object) -> float:
        restored = dequantize(stored.values, stored.scales, scheme, 128)  # type: ignore[attr-defined] - Quantized
        return float((importance * (restored - x) ** 2).sum())

    assert error(weighed) <= error(plain)


def test_an_unknown_method_names_the_nearest_and_all() -> None:
    with pytest.raises(InputError, match=r"rtn"):
        load_method("rtm")
