"""Whether a figure keeps its rule: decided by intervals, so that what cannot be told does not fail a build.

A bound is broken when the whole 95 % interval lies beyond it, kept when none of it does; in between it is undecided. A
figure is worse than its baseline when the whole interval of the ratio is beyond what may be lost. Undecided does not
fail, and is said: more rounds or a quieter machine decide it. A figure that is no number, or infinite, keeps no rule.
"""

from dataclasses import dataclass
from enum import Enum
from math import isfinite

from edgepress.runtime.gate.budget import Rule
from edgepress.runtime.gate.figures import Figure
from edgepress.runtime.profile.statistics import Interval, difference, interval_of


class Outcome(Enum):
    """What came of one rule."""

    KEPT = "kept"
    BROKEN = "broken"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verdict:
    """One figure, one rule, what came of it and why, in one line. ``baseline`` is None where there is none."""

    gauge: str
    figure: str
    unit: str
    value: float | None
    baseline: float | None
    outcome: Outcome
    because: str


def judge(gauge: str, figure: Figure, rule: Rule, baseline: Figure | None) -> Verdict:
    """Hold a figure against its rule; ``baseline`` is the same figure of what it is held against."""
    if figure.unknown or not figure.observations:
        because = figure.unknown or "nothing was measured"
        return Verdict(gauge, figure.name, figure.unit, None, None, Outcome.UNDECIDED, because)
    if (wrong := _not_finite(figure)) is not None:
        return Verdict(gauge, figure.name, figure.unit, None, None, Outcome.BROKEN, f"it is {wrong}")
    interval = _interval(figure)
    found = [_bound(interval, rule, figure.unit)] if rule.most is not None or rule.least is not None else []
    before = None
    if rule.worse_by_most is not None:
        if baseline is None or baseline.unknown or not baseline.observations:
            why = "there is no baseline" if baseline is None else f"its baseline: {baseline.unknown or 'none'}"
            found.append((Outcome.UNDECIDED, why))
        elif (wrong := _not_finite(baseline)) is not None:
            found.append((Outcome.UNDECIDED, f"its baseline is {wrong}"))
        else:
            before = _interval(baseline).value
            found.append(_worse(figure, baseline, rule))
    outcome = next(
        (outcome for outcome in (Outcome.BROKEN, Outcome.UNDECIDED) if any(outcome is one for one, _ in found)),
        Outcome.KEPT,
    )
    because = "; ".join(text for one, text in found if one is outcome)
    return Verdict(gauge, figure.name, figure.unit, interval.value, before, outcome, because)


def _not_finite(figure: Figure) -> float | None:
    """The first observation that is NaN or infinite."""
    return next((one for one in figure.observations if not isfinite(one)), None)


def _interval(figure: Figure) -> Interval:
    if figure.exact or len(figure.observations) == 1:
        value = figure.observations[0]
        return Interval(value, value, value, 1)
    return interval_of(figure.observations)


def _bound(interval: Interval, rule: Rule, unit: str) -> tuple[Outcome, str]:
    """Against ``most`` and ``least``."""
    value = f"{interval.value:.4g} {unit}"
    if rule.most is not None and interval.low > rule.most:
        return Outcome.BROKEN, f"{value} is more than {rule.most:g}"
    if rule.least is not None and interval.high < rule.least:
        return Outcome.BROKEN, f"{value} is less than {rule.least:g}"
    bounds = [bound for bound in (rule.most, rule.least) if bound is not None]
    inside = f"{interval.low:.4g} to {interval.high:.4g} {unit}"
    if (rule.most is not None and interval.high > rule.most) or (rule.least is not None and interval.low < rule.least):
        return Outcome.UNDECIDED, f"{inside} has the bound {' and '.join(f'{bound:g}' for bound in bounds)} in it"
    return Outcome.KEPT, f"{value}, within {' and '.join(f'{bound:g}' for bound in bounds)}"


def _worse(figure: Figure, baseline: Figure, rule: Rule) -> tuple[Outcome, str]:
    """Against a baseline: by how much worse, as a share, and in the figure's unit."""
    assert rule.worse_by_most is not None
    now, before = _interval(figure).value, _interval(baseline).value
    loss = now - before if figure.better == "less" else before - now
    if figure.exact or len(figure.observations) == 1:
        low = high = _share_worse(figure, now / before) if before else float("inf") * loss if loss else 0.0
    else:
        ratio = difference(figure.observations, baseline.observations)
        ends = (_share_worse(figure, ratio.low), _share_worse(figure, ratio.high))
        low, high = min(ends), max(ends)
    said = f"{now:.4g} {figure.unit}, {before:.4g} before: worse by {100 * loss / before if before else 0:.1f} %"
    if low > rule.worse_by_most and loss > rule.slack:
        return (
            Outcome.BROKEN,
            f"{said}, more than {100 * rule.worse_by_most:g} % (95 %: {100 * low:.1f} to {100 * high:.1f})",
        )
    if high > rule.worse_by_most and loss > rule.slack:
        return (
            Outcome.UNDECIDED,
            f"{said} (95 %: {100 * low:.1f} to {100 * high:.1f}), which {100 * rule.worse_by_most:g} % is in",
        )
    return Outcome.KEPT, said


def _share_worse(figure: Figure, ratio: float) -> float:
    """How much worse a ratio to the baseline is: the growth of what should be small, the loss of what should not."""
    return ratio - 1 if figure.better == "less" else 1 - ratio
