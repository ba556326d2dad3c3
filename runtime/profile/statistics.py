"""Intervals of what was measured, when enough has been, and whether two results differ.

The unit is the *round*: a fresh process that loads the bundle and measures each quantity several times. Samples of one
process are alike (same addresses, same pages, same neighbours on the machine), so their scatter says little of the next
process; the median of a round is one observation. Times are positive and errors multiply, so all is done on
logarithms, and differences are ratios. Quantiles of Student's distribution are from tables (two-sided, 95 %).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from statistics import NormalDist, mean, stdev

_LEAST_ROUNDS = 3  # fewer have no interval worth the name


@dataclass(frozen=True)
class Interval:
    """A value and the bounds within which its truth lies with 95 % probability; ``rounds`` it was made from."""

    value: float
    low: float
    high: float
    rounds: int

    @property
    def half_width(self) -> float:
        """How far the farther bound is from the value, as a share of it."""
        return max(self.high - self.value, self.value - self.low) / self.value


def student(degrees: float, confidence: float = 0.95) -> float:
    """Two-sided quantile of Student's t distribution by the expansion of Cornish and Fisher (Abramowitz and Stegun
    26.7.5), within 0.2 % from 3 degrees of freedom on, and its closed forms below.
    """
    tail = (1 + confidence) / 2
    if degrees < 1:
        return inf
    if degrees < 1.5:  # Cauchy's distribution
        from math import pi, tan

        return tan(pi * (tail - 0.5))
    if degrees < 2.5:
        centred = 2 * tail - 1
        return centred * sqrt(2 / (1 - centred**2))
    z = NormalDist().inv_cdf(tail)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))


def interval_of(observations: Sequence[float]) -> Interval:
    """Geometric mean of positive observations, one a round, with its 95 % interval by Student's t on their logarithms.

    Of fewer than three the interval is open: 0 to infinity.
    """
    logs = [log(value) for value in observations]
    centre = mean(logs)
    if len(logs) < _LEAST_ROUNDS:
        return Interval(exp(centre), 0.0, inf, len(logs))
    margin = student(len(logs) - 1) * stdev(logs) / sqrt(len(logs))
    return Interval(exp(centre), exp(centre - margin), exp(centre + margin), len(logs))


@dataclass(frozen=True)
class Difference:
    """How one result relates to another: the ratio of their values (first over second) and its 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether 1, no difference, lies outside the interval."""
        return not self.low <= 1.0 <= self.high


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Ratio of two results of independent rounds, by Welch's t-test on logarithms (Welch 1947, equation of degrees 28).

    With fewer than three rounds on a side the interval is open.
    """
    logs = [[log(value) for value in values] for values in (first, second)]
    gap = mean(logs[0]) - mean(logs[1])
    if min(len(values) for values in logs) < _LEAST_ROUNDS:
        return Difference(exp(gap), 0.0, inf)
    errors = [stdev(values) ** 2 / len(values) for values in logs]
    if sum(errors) == 0:
        return Difference(exp(gap), exp(gap), exp(gap))
    degrees = sum(errors) ** 2 / sum(error**2 / (len(values) - 1) for error, values in zip(errors, logs, strict=True))
    margin = student(degrees) * sqrt(sum(errors))
    return Difference(exp(gap), exp(gap - margin), exp(gap + margin))


def enough(observations: Sequence[float], precision: float, least: int) -> bool:
    """Whether rounds may stop: there are ``least``, and the interval is within ± ``precision`` of the value."""
    return len(observations) >= max(least, _LEAST_ROUNDS) and interval_of(observations).half_width <= precision
