"""One option for each group, the cheapest together that stay within a limit: the multiple-choice knapsack problem.

minimize Σ c[g, o] x[g, o] subject to Σ_o x[g, o] = 1 for each group g, Σ u[g, o] x[g, o] ≤ limit, x ∈ {0, 1}
(Sinha and Zoltners 1979). Solved to optimality by HiGHS's branch and bound through ``scipy.optimize.milp``. This module
scales the numbers to near 1 for HiGHS and checks that its answer meets the limit exactly, without its tolerances.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from edgepress.errors import InputError

_COST_SPAN = 1e6  # the sum of all groups' largest costs as HiGHS sees it: its absolute gap is 1e-6
_USE_SPAN = (
    1e4  # what may be used, as HiGHS sees it: its absolute tolerance is 1e-6, and near it a best answer was missed
)
_ROUNDING = 1e-12  # of the limit: what sums of floats may be off by, while the solver is at work

Table = Sequence[Sequence[float]]
"""One number for each option of each group; groups may have different numbers of options."""


def choose(costs: Table, uses: Table, limit: float) -> list[int]:
    """The option of each group: least sum of ``costs`` with the sum of ``uses`` at most ``limit``.

    Of options equal in both, the first is taken; the answer is the same for the same input.

    Raises:
        InputError: even the options that use least are together beyond ``limit``; the message says what they need.

    """
    least = math.fsum(min(options) for options in uses)
    if least > limit:
        raise InputError(f"a budget of {limit:g} cannot be met; the smallest that can is {least:g}")
    slack = limit - least + _ROUNDING * abs(limit)
    kept = [_useful(cost, use, slack) for cost, use in zip(costs, uses, strict=True)]
    excluded: list[list[int]] = []
    while True:
        chosen = _solve(costs, uses, kept, slack, excluded)
        if math.fsum(use[option] for use, option in zip(uses, chosen, strict=True)) <= limit:
            return chosen
        excluded.append(chosen)  # beyond the limit by less than HiGHS's tolerance


def _useful(cost: Sequence[float], use: Sequence[float], slack: float) -> list[int]:
    """Options of one group that can be in a best answer: affordable, and none other costs and uses as little.

    In the order of falling cost and rising use.
    """
    useful: list[int] = []
    for option in sorted(range(len(use)), key=lambda option: (use[option], cost[option], option)):
        if use[option] - min(use) <= slack and (not useful or cost[option] < cost[useful[-1]]):
            useful.append(option)
    return useful


def _solve(
    costs: Table, uses: Table, kept: Sequence[Sequence[int]], slack: float, excluded: Sequence[Sequence[int]]
) -> list[int]:
    """Solve for the options in ``kept``; no answer may be one of ``excluded``."""
    pairs = [(group, option) for group, options in enumerate(kept) for option in options]
    cost = np.array([costs[group][option] - costs[group][kept[group][-1]] for group, option in pairs])
    use = np.array([uses[group][option] - uses[group][kept[group][0]] for group, option in pairs])
    if len(pairs) == len(kept):
        return [options[0] for options in kept]
    span = math.fsum(costs[group][options[0]] - costs[group][options[-1]] for group, options in enumerate(kept))
    groups = np.array([group for group, _ in pairs])
    one_each = csr_array((np.ones(len(pairs)), (groups, np.arange(len(pairs)))), shape=(len(kept), len(pairs)))
    constraints = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(use[None] * (_USE_SPAN / slack), -np.inf, _USE_SPAN),
    ]
    for answer in excluded:
        same = np.array([float(answer[group] == option) for group, option in pairs])
        constraints.append(LinearConstraint(same[None], -np.inf, len(kept) - 1))
    result = milp(
        cost * (_COST_SPAN / span),
        integrality=np.ones(len(pairs)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        raise RuntimeError(f"HiGHS found no answer: {result.message}")
    chosen = [0] * len(kept)
    for (group, option), taken in zip(pairs, result.x, strict=True):
        if taken > 0.5:
            chosen[group] = option
    return chosen
