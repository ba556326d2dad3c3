"""The solver against exhaustive search."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.exporter.learn.budget.solver import choose

Table = list[list[float]]


def total(table: Table, options: tuple[int, ...] | list[int]) -> float:
    return math.fsum(row[option] for row, option in zip(table, options, strict=True))


def exhaustive(costs: Table, uses: Table, limit: float) -> float:
    """Least cost within the limit, by trying every combination."""
    every = itertools.product(*(range(len(row)) for row in costs))
    return min(total(costs, options) for options in every if total(uses, options) <= limit)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Table, Table, float]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    # prices of very different sizes, as KL has; bytes in whole numbers, so that limits are met exactly
    price = st.floats(1e-7, 1.0) | st.sampled_from([0.0, 1e-6, 0.25])
    costs = [draw(st.lists(price, min_size=size, max_size=size)) for size in sizes]
    uses = [draw(st.lists(st.integers(0, 10**9).map(float), min_size=size, max_size=size)) for size in sizes]
    combination = [draw(st.integers(0, size - 1)) for size in sizes]
    return costs, uses, total(uses, combination)  # a limit that some combination meets exactly


NEAR = ([[1.0, 0.375, 0.25], [0.25, 1.0, 1.0, 0.5]], [[0.0, 0.0, 1.0], [1000023.0, 0.0, 0.0, 1001.0]], 1000023.0)
"""A better choice is beyond the limit by a millionth of it, which is HiGHS's tolerance."""


@settings(deadline=None, max_examples=150)
@given(problem=problems())
@example(problem=NEAR)
def test_the_choice_is_the_best_of_all_combinations(problem: tuple[Table, Table, float]) -> None:
    costs, uses, limit = problem
    chosen = choose(costs, uses, limit)
    assert total(uses, chosen) <= limit
    assert total(costs, chosen) == pytest.approx(exhaustive(costs, uses, limit), rel=1e-9, abs=1e-12)
    assert choose(costs, uses, limit) == chosen


@settings(deadline=None, max_examples=50)
@given(problem=problems())
def test_the_other_way_round_least_bytes_within_a_price(problem: tuple[Table, Table, float]) -> None:
    costs, uses, _ = problem
    limit = total(costs, [0] * len(costs))
    chosen = choose(uses, costs, limit)
    assert total(costs, chosen) <= limit
    assert total(uses, chosen) == pytest.approx(exhaustive(uses, costs, limit), rel=1e-9)


def test_of_options_alike_the_first_is_taken() -> None:
    assert choose([[1.0, 0.5, 0.5, 0.5]], [[1.0, 2.0, 2.0, 3.0]], 3.0) == [1]


def test_a_large_problem_is_solved_to_the_bound_of_its_relaxation() -> None:
    """200 groups, too many to try all: a relaxation bounds the best from below."""
    random = np.random.default_rng(0)
    uses = [sorted(random.integers(1_000, 1_000_000, 5).tolist()) for _ in range(200)]
    costs = [sorted(random.random(5).tolist(), reverse=True) for _ in range(200)]
    limit = sum(row[2] for row in uses)
    chosen = choose(costs, uses, limit)
    assert total(uses, chosen) <= limit
    # Lagrangian bound: for any multiplier m ≥ 0, Σ min (c + m u) − m · limit is at most the best cost
    bound = max(
        sum(min(c + m * u for c, u in zip(*rows, strict=True)) for rows in zip(costs, uses, strict=True)) - m * limit
        for m in np.geomspace(1e-9, 1e-3, 400)
    )
    assert bound <= total(costs, chosen) <= bound + 0.05


def test_a_limit_that_cannot_be_met_says_the_smallest_that_can() -> None:
    with pytest.raises(InputError, match="10 cannot be met; the smallest that can is 12"):
        choose([[1.0, 0.0], [1.0]], [[5.0, 9.0], [7.0]], 10)
    assert choose([[1.0, 0.0], [1.0]], [[5.0, 9.0], [7.0]], 12) == [0, 0]
