"""Rules on made-up figures: broken, kept or undecided as their intervals say, and seldom broken by chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.runtime.gate.budget import Rule
from edgepress.runtime.gate.figures import Better, Figure
from edgepress.runtime.gate.verdict import Outcome, judge


def figure(*observations: float, better: Better = "less", exact: bool = False, unknown: str = "") -> Figure:
    return Figure("it", "MB", better, observations, exact, unknown)


def outcome(one: Figure, rule: Rule, baseline: Figure | None = None) -> Outcome:
    return judge("made up", one, rule, baseline).outcome


@pytest.mark.parametrize(
    ("value", "rule", "expected"),
    [
        (89.0, Rule(most=90), Outcome.KEPT),
        (90.0, Rule(most=90), Outcome.KEPT),
        (91.0, Rule(most=90), Outcome.BROKEN),
        (29.0, Rule(least=30), Outcome.BROKEN),
        (31.0, Rule(least=30), Outcome.KEPT),
        (50.0, Rule(least=30, most=40), Outcome.BROKEN),
    ],
)
def test_exact_figures_are_held_against_their_bounds(value: float, rule: Rule, expected: Outcome) -> None:
    assert outcome(figure(value, exact=True), rule) is expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", [Rule(least=0.8), Rule(most=0.8), Rule(worse_by_most=0.1)])
def test_what_is_no_number_keeps_no_rule(value: float, rule: Rule) -> None:
    found = judge("g", figure(value, exact=True), rule, figure(1.0, exact=True))
    assert (found.outcome, found.because, found.value) == (Outcome.BROKEN, f"it is {value}", None)
    assert outcome(figure(1.0, value, 1.0), rule, figure(1.0)) is Outcome.BROKEN
    before = judge("g", figure(1.0, exact=True), Rule(worse_by_most=0.1), figure(value, exact=True))
    assert (before.outcome, before.because) == (Outcome.UNDECIDED, f"its baseline is {value}")


def test_a_bound_inside_the_interval_is_undecided() -> None:
    noisy = figure(9.0, 10.0, 11.0, 10.0)
    assert outcome(noisy, Rule(most=10.1)) is Outcome.UNDECIDED
    assert outcome(noisy, Rule(most=20)) is Outcome.KEPT
    assert outcome(noisy, Rule(most=5)) is Outcome.BROKEN
    assert outcome(noisy, Rule(least=10.1)) is Outcome.UNDECIDED


@given(before=st.floats(1.0, 1e4), growth=st.floats(-0.5, 1.0), share=st.floats(0.0, 0.5), slack=st.floats(0.0, 50.0))
def test_memory_fails_above_a_share_and_a_slack_and_not_above_one_of_them(
    before: float, growth: float, share: float, slack: float
) -> None:
    now = before * (1 + growth)
    rule = Rule(worse_by_most=share, slack=slack)
    found = outcome(figure(now, exact=True), rule, figure(before, exact=True))
    close = abs(growth - share) < 1e-9 or abs(now - before - slack) < 1e-9
    assert close or (found is Outcome.BROKEN) == (growth > share and now - before > slack)


def test_what_should_be_large_is_worse_when_it_falls() -> None:
    rule = Rule(worse_by_most=0.05)
    assert (
        outcome(figure(90.0, better="more", exact=True), rule, figure(100.0, better="more", exact=True))
        is Outcome.BROKEN
    )
    assert (
        outcome(figure(130.0, better="more", exact=True), rule, figure(100.0, better="more", exact=True))
        is Outcome.KEPT
    )


def test_what_is_not_known_is_undecided_and_says_why() -> None:
    found = judge("g", figure(unknown="the battery is charged"), Rule(most=1), None)
    assert (found.outcome, found.because, found.value) == (Outcome.UNDECIDED, "the battery is charged", None)
    missing = judge("g", figure(1.0), Rule(worse_by_most=0.1), None)
    assert missing.because == "there is no baseline"
    both = judge("g", figure(2.0), Rule(most=1, worse_by_most=0.1), None)
    assert both.outcome is Outcome.BROKEN  # the bound is broken whatever the baseline would have said


def test_a_rule_of_five_percent_is_broken_by_chance_hardly_ever_and_by_ten_percent_nearly_always() -> None:
    chance = np.random.default_rng(23)
    rule = Rule(worse_by_most=0.05)

    def rounds(scale: float = 1.0) -> Figure:
        return figure(*(scale * np.exp(chance.normal(0, 0.03, 8))))

    same = [outcome(rounds(), rule, rounds()) for _ in range(500)]
    at_the_limit = [outcome(rounds(1.05), rule, rounds()) for _ in range(500)]
    slower = [outcome(rounds(1.10), rule, rounds()) for _ in range(500)]
    assert same.count(Outcome.BROKEN) == 0
    assert at_the_limit.count(Outcome.BROKEN) <= 0.05 * 500
    assert slower.count(Outcome.BROKEN) >= 0.75 * 500
    assert Outcome.KEPT not in slower
