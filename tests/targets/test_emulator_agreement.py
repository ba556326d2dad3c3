"""Agreement of arrays, against its formulas in plain Python."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.targets.emulator import agreement

NUMBERS = st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 2), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None)
@given(NUMBERS)
def test_sqnr_and_difference_are_those_of_the_definition(pairs: list[tuple[float, float]]) -> None:
    expected, found = (np.array(side, np.float32) for side in zip(*pairs, strict=True))
    result = agreement(expected, found)
    noise = math.fsum((right - left) ** 2 for left, right in pairs)
    signal = math.fsum(left**2 for left, _ in pairs)
    assert result.bit_equal == all(np.float32(left).tobytes() == np.float32(right).tobytes() for left, right in pairs)
    assert result.largest_difference == max(abs(right - left) for left, right in pairs)
    if noise == 0:
        assert result.sqnr_db == math.inf
    elif signal == 0:
        assert result.sqnr_db == -math.inf
    else:
        assert result.sqnr_db == pytest.approx(10 * math.log10(signal) - 10 * math.log10(noise), abs=1e-6)


def test_equal_infinities_and_nans_are_no_difference() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 2.0], np.float32)
    assert agreement(values, values.copy()).bit_equal
    result = agreement(values, np.array([np.nan, np.inf, -np.inf, 1.0], np.float32))
    assert not result.bit_equal
    assert result.sqnr_db == pytest.approx(10 * math.log10(4))
    assert result.largest_difference == 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_infinity_or_nan_on_one_side_is_the_worst(wrong: float) -> None:
    result = agreement(np.array([1.0, 2.0]), np.array([1.0, wrong]))
    assert (result.bit_equal, result.sqnr_db, result.largest_difference) == (False, -math.inf, math.inf)
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["sqnr_db"] is None


def test_zeros_of_another_sign_are_equal_numbers_and_other_bits() -> None:
    result = agreement(np.array([0.0]), np.array([-0.0]))
    assert (result.bit_equal, result.sqnr_db) == (False, math.inf)


def test_rows_of_scores_agree_where_their_largest_is_at_one_place() -> None:
    expected = np.array([[1, 2], [3, 1], [0, 5], [1, 0]], np.float32)
    found = np.array([[1, 9], [0, 1], [0, 5], [1, 0]], np.float32)
    assert agreement(expected, found, scores=True).top1 == 0.75
    assert agreement(expected, found).top1 is None


def test_integers_are_compared_without_wrapping() -> None:
    result = agreement(np.array([0, 200], np.uint8), np.array([255, 200], np.uint8))
    assert result.largest_difference == 255


def test_other_shapes_or_types_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        agreement(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="float32"):
        agreement(np.zeros(3), np.zeros(3, np.float32))
