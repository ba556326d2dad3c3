"""Round to nearest with a searched scale: against brute force in float64, and the same bits however it is cut."""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.exporter.arrays.packing import Quantized, dequantize, unpack
from edgepress.exporter.arrays.scheme import BITS, Scheme
from edgepress.exporter.methods.kinds import load_method, method_names
from edgepress.exporter.methods.round import rtn

QUANTIZE = load_method("rtn").quantize


def _weights(rows: int, columns: int, seed: int = 0, kind: str = "normal") -> np.ndarray:
    random = np.random.default_rng(seed)
    found = {
        "normal": lambda: random.standard_normal((rows, columns)) * 0.02,
        "heavy": lambda: random.standard_t(2, (rows, columns)),
        "few": lambda: random.integers(-3, 4, (rows, columns)) * 0.25,
        "sparse": lambda: random.standard_normal((rows, columns)) * (random.random((rows, columns)) < 0.1),
    }[kind]()
    return found.astype(np.float32)


def _restored(q: Quantized, scheme: Scheme, columns: int) -> np.ndarray:
    return dequantize(q.values, q.scales, scheme, columns, q.zero_points).astype(np.float64)


def _errors(x: np.ndarray, scheme: Scheme, importance: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted squared error of every group: ours, plain rounding's, the best of a fine grid."""
    restored = _restored(QUANTIZE(x, scheme, importance), scheme, x.shape[1])
    weights = np.ones(x.shape[1]) if importance is None else importance.astype(np.float64)
    size = x.shape[1] if scheme.per_channel else scheme.block_size
    plain_error = oracles.absmax_error if scheme.symmetric else oracles.minmax_error
    ours, plain, best = [], [], []
    for row in range(len(x)):
        for start in range(0, x.shape[1], size):
            block = slice(start, start + size)
            values, w = x[row, block].astype(np.float64), weights[block]
            ours.append((w * (values - restored[row, block]) ** 2).sum())
            plain.append(plain_error(values, scheme.bits, w))
            steps = 1000 if scheme.symmetric else 100
            positive = scheme.per_channel and scheme.bits > 2  # as accelerators ask for
            best.append(
                oracles.best_error(values, scheme.bits, w, symmetric=scheme.symmetric, positive=positive, steps=steps)
            )
    return np.array(ours), np.array(plain), np.array(best)


@pytest.mark.parametrize("kind", ["normal", "heavy", "few", "sparse"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("weighted", [False, True])
def test_error_is_near_the_best_and_never_above_plain_rounding(
    kind: str, bits: int, symmetric: bool, per_channel: bool, weighted: bool
) -> None:
    x = _weights(4, 144, 3, kind)
    importance = np.random.default_rng(4).gamma(0.5, size=144).astype(np.float32) if weighted else None
    ours, plain, best = _errors(x, Scheme("rtn", bits, 32, symmetric, per_channel), importance)
    slack = 1e-6 * np.square(x).max()  # float32 scales; blocks that are stored exactly
    assert (ours <= plain * 1.0001 + slack).all()
    if kind in ("normal", "heavy"):  # few different values want a scale of their own, which no candidates can foresee
        factor = {2: (1.05, 1.2), 4: (1.03, 1.2), 8: (1.25, 1.35)}[bits][weighted]
        assert ours.sum() <= best.sum() * factor


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_with_one_scale_have_a_positive_one(bits: int) -> None:
    x = _weights(64, 96, 5, "heavy")
    assert (QUANTIZE(x, Scheme("rtn", bits, 32, symmetric=True, per_channel=True), None).scales > 0).all()
    assert (QUANTIZE(x, Scheme("rtn", bits, 32, symmetric=True), None).scales < 0).any()


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=40),
    bits=st.sampled_from(BITS),
    size=st.sampled_from([16, 32]),
    symmetric=st.booleans(),
)
def test_never_above_plain_rounding_on_any_block(values: list[float], bits: int, size: int, symmetric: bool) -> None:
    x, scheme = np.array([values], np.float32), Scheme("rtn", bits, size, symmetric)
    restored = _restored(QUANTIZE(x, scheme, None), scheme, len(values))
    for start in range(0, len(values), size):
        block = x[0, start : start + size].astype(np.float64)
        ours = ((block - restored[0, start : start + size]) ** 2).sum()
        plain_error = oracles.absmax_error if symmetric else oracles.minmax_error
        plain = plain_error(block, bits, np.ones(len(block)))
        slack = 1e-7 if bits == 8 else 1e-9  # of Σ x²: candidates nearer to each other look alike in float32
        assert ours <= plain * 1.0001 + slack * (block**2).sum() + 1e-37


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(1, 1, 16), (1, 64, 128), (3, 33, 32), (2, 64, 64), (5, 100, 16)]
)
def test_odd_shapes(bits: int, rows: int, columns: int, size: int) -> None:
    scheme = Scheme("rtn", bits, size)
    x = _weights(rows, columns)
    found = QUANTIZE(x, scheme, None)
    assert found.values.shape == scheme.values_shape(rows, columns)
    assert found.scales.shape == scheme.scales_shape(rows, columns)
    assert (found.values.dtype, found.scales.dtype) == (np.uint8, np.float32)
    largest = np.abs(found.scales).max()
    assert np.abs(_restored(found, scheme, columns) - x).max() <= largest * (1.6 if bits == 4 else 1.01)
    codes = unpack(found.values, bits).reshape(rows, -1)
    assert (codes[:, columns:] == scheme.zero_point).all()


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 100), cut=st.integers(1, 4), weighted=st.booleans())
def test_same_bits_however_it_is_cut(rows: int, columns: int, cut: int, weighted: bool) -> None:
    scheme = Scheme("rtn", 4, 32)
    x = _weights(rows, columns, rows + columns)
    importance = np.random.default_rng(1).random(columns, np.float32) if weighted else None
    whole = QUANTIZE(x, scheme, importance)
    for start in range(0, rows, cut):
        piece = QUANTIZE(x[start : start + cut], scheme, importance)
        np.testing.assert_array_equal(piece.values, whole.values[start : start + cut])
        np.testing.assert_array_equal(piece.scales, whole.scales[start : start + cut])


def test_same_bits_in_tiles_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = Scheme("rtn", 4, 32)
    x, importance = _weights(7, 96), np.random.default_rng(1).random(96, np.float32)
    whole = QUANTIZE(x, scheme, importance)
    for blocks in (1, 2, 3, 5):
        monkeypatch.setattr(rtn, "_TILE", blocks * 32)
        tiled = QUANTIZE(x, scheme, importance)
        np.testing.assert_array_equal(tiled.values, whole.values)
        np.testing.assert_array_equal(tiled.scales, whole.scales)


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_blocks_stay_zero(bits: int) -> None:
    scheme = Scheme("rtn", bits, 16)
    x = np.zeros((2, 48), np.float32)
    x[1, 20] = 3
    found = QUANTIZE(x, scheme, None)
    np.testing.assert_allclose(_restored(found, scheme, 48), x, rtol=1e-6)
    assert np.isfinite(found.scales).all()
    assert (unpack(found.values[0], bits) == scheme.zero_point).all()


@pytest.mark.parametrize("magnitude", [3.4e38, 1e30, 1e-30, 1e-37])
@pytest.mark.parametrize("bits", [4, 8])
def test_extreme_magnitudes_neither_overflow_nor_vanish(magnitude: float, bits: int) -> None:
    scheme = Scheme("rtn", bits, 32)
    x = np.clip(_weights(4, 64) * 10, -1, 1)
    scaled = (x * np.float32(magnitude)).astype(np.float32)
    found = _restored(QUANTIZE(scaled, scheme, None), scheme, 64)
    assert np.isfinite(found).all()
    expected = _restored(QUANTIZE(x, scheme, None), scheme, 64) * magnitude
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=magnitude * 1e-2)


def test_subnormal_weights_stay_finite() -> None:
    x = np.full((2, 32), 1e-42, np.float32)
    found = QUANTIZE(x, Scheme("rtn", 4, 32), None)
    assert np.isfinite(found.scales).all()


@pytest.mark.parametrize("power", [-100, -3, 60, 100])
def test_powers_of_two_change_nothing_but_the_scale(power: int) -> None:
    scheme = Scheme("rtn", 4, 32)
    x = _weights(4, 64)
    plain, scaled = QUANTIZE(x, scheme, None), QUANTIZE(np.ldexp(x, power).astype(np.float32), scheme, None)
    np.testing.assert_array_equal(plain.values, scaled.values)
    np.testing.assert_array_equal(np.ldexp(plain.scales, power), scaled.scales)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_on_a_grid_are_recovered(bits: int) -> None:
    scheme = Scheme("rtn", bits, 32)
    codes = np.random.default_rng(0).integers(-(1 << bits - 1), 1 << bits - 1, (8, 64))
    codes[:, ::32] = -(1 << bits - 1)
    x = (codes * 0.125).astype(np.float32)
    np.testing.assert_allclose(_restored(QUANTIZE(x, scheme, None), scheme, 64), x, rtol=1e-6)


@pytest.mark.parametrize("importance", [np.zeros(64), np.full(64, 1e-38), np.full(64, 3e38)])
def test_only_relative_importance_matters(importance: np.ndarray) -> None:
    scheme, x = Scheme("rtn", 4, 32), _weights(4, 64)
    found = QUANTIZE(x, scheme, importance.astype(np.float32))
    plain = QUANTIZE(x, scheme, None)
    np.testing.assert_array_equal(found.values, plain.values)


def test_importance_moves_the_error_where_it_matters_less() -> None:
    scheme, x = Scheme("rtn", 4, 32), _weights(64, 64)
    importance = np.where(np.arange(64) % 4 == 0, 100, 1).astype(np.float32)
    plain = np.square(_restored(QUANTIZE(x, scheme, None), scheme, 64) - x)[:, ::4].sum()
    weighted = np.square(_restored(QUANTIZE(x, scheme, importance), scheme, 64) - x)[:, ::4].sum()
    assert weighted < 0.8 * plain


def test_the_input_is_left_alone() -> None:
    x = _weights(2, 64) * np.float32(1e30)
    kept = x.copy()
    QUANTIZE(x, Scheme("rtn", 4, 32), None)
    np.testing.assert_array_equal(x, kept)


def test_methods_are_found_by_file() -> None:
    assert "rtn" in method_names()
    assert "packing" not in method_names()
    with pytest.raises(InputError, match=r"unknown compression method 'rtm'; did you mean 'rtn'\?"):
        load_method("rtm")
