"""Intervals and differences against tables and against what they promise of made-up rounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.runtime.profile.statistics import difference, enough, interval_of, student


@pytest.mark.parametrize(
    ("degrees", "quantile"),  # two-sided, 95 %: Abramowitz and Stegun, table 26.10
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_quantiles_of_student_are_those_of_the_table(degrees: float, quantile: float) -> None:
    assert student(degrees) == pytest.approx(quantile, rel=0.003)


@given(st.floats(3, 1e6))
def test_quantiles_fall_with_the_degrees_of_freedom_to_that_of_the_normal_distribution(degrees: float) -> None:
    assert 1.9599 <= student(degrees * 1.1) <= student(degrees) + 1e-12


@pytest.mark.parametrize("rounds", [5, 12])
def test_intervals_cover_the_truth_as_often_as_they_say(rounds: int) -> None:
    chance = np.random.default_rng(11)
    found = [interval_of(0.01 * np.exp(chance.normal(0, 0.05, rounds))) for _ in range(2000)]
    covered = np.mean([interval.low <= 0.01 <= interval.high for interval in found])
    assert 0.935 <= covered <= 0.965


def test_equal_results_differ_no_more_often_than_they_should_and_a_slowdown_is_found() -> None:
    chance = np.random.default_rng(13)

    def profile(slowdown: float = 1.0) -> np.ndarray:
        return slowdown * np.exp(chance.normal(0, 0.015, 8))

    false = np.mean([difference(profile(), profile()).significant for _ in range(2000)])
    found = np.mean([difference(profile(1.05), profile()).significant for _ in range(500)])
    assert 0.03 <= false <= 0.07
    assert found >= 0.98


def test_sides_of_different_scatter_are_told_apart_by_welchs_test() -> None:
    chance = np.random.default_rng(17)
    false = np.mean(
        [
            difference(np.exp(chance.normal(0, 0.10, 4)), np.exp(chance.normal(0, 0.01, 20))).significant
            for _ in range(2000)
        ]
    )
    assert false <= 0.07


@given(st.lists(st.floats(1e-6, 1e3), min_size=3, max_size=30), st.floats(0.01, 100.0))
def test_intervals_and_ratios_do_not_depend_on_the_unit(values: list[float], unit: float) -> None:
    one, other = interval_of(values), interval_of([unit * value for value in values])
    assert other.value == pytest.approx(unit * one.value)
    assert other.half_width == pytest.approx(one.half_width, rel=1e-6, abs=1e-9)
    assert difference([unit * value for value in values], values).ratio == pytest.approx(unit)


def test_two_rounds_have_an_open_interval_and_are_never_enough() -> None:
    assert interval_of([1.0, 1.1]).high == float("inf")
    assert not difference([1.0, 1.0], [2.0, 2.0, 2.0]).significant
    assert not enough([1.0, 1.0], 0.5, 2)
    assert enough([1.0, 1.0, 1.0], 0.01, 3)
    assert not enough([1.0, 1.5, 0.7], 0.01, 3)
