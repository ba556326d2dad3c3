"""The schemes that meet a recipe's ``[budget]``: measure → solve → plan.

The price of a candidate is the loss that it costs by itself, KL (:mod:`.sensitivity`) or the squared error of outputs
(:mod:`edgepress.exporter.learn.graphs.prices`); prices are added up to predict the loss of a choice, and that of the
final choice is measured. For a limit in bytes or time it is measured once; for one in loss the limit given to the
solver is corrected by measured over predicted loss until the measured one meets the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from glob import escape

from edgepress.errors import InputError
from edgepress.exporter.learn.budget.sensitivity import TensorGroup, overrides, with_choice
from edgepress.exporter.learn.budget.solver import choose
from edgepress.exporter.model.subject import Description
from edgepress.exporter.plan.forms import block_form
from edgepress.exporter.plan.layout import PAGE, region_bytes
from edgepress.exporter.plan.making import bytes_beside, make_plan
from edgepress.exporter.plan.plan import Form, Plan
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.recipe.recipe import CHOSEN_BY_BUDGET, Budget, Override, Recipe

_CORRECTIONS = 8  # solutions that are measured at most for a budget in loss
_NEAR = 0.98  # the search ends when the measured loss is at least this share of the budget, and within it
_PADDING = 8 * PAGE  # bytes: more than one tensor's change of size can move the padding of the others


@dataclass(frozen=True)
class Prices:
    """What each candidate of each group costs: ``loss`` and, for a budget in time, ``ms`` per token.

    ``unit`` is what the loss is measured in, as plans say it; ``form`` is how codes are stored.
    """

    groups: Sequence[TensorGroup]
    loss: Sequence[Sequence[float]]
    ms: Sequence[Sequence[float]] | None = None
    form: Form = "blocks"
    unit: str = "KL"

    def bytes(self) -> list[list[int]]:
        """Stored bytes of each candidate of each group, each region at a cache line."""
        return [
            [
                sum(
                    -(-nbytes // 64) * 64
                    for weight, scheme in zip(group.weights, candidate.schemes, strict=True)
                    for nbytes in region_bytes(weight.shape, scheme, self.form).values()
                )
                for candidate in group.candidates
            ]
            for group in self.groups
        ]


@dataclass(frozen=True)
class ChosenSchemes:
    """The choice: the ``chosen`` candidate of each group, its overrides and its cost.

    ``used`` is how much of the limit it needs, in ``unit``; ``predicted`` is the sum of the prices, ``measured`` the
    loss of the whole model, rounded as the export rounds it but without repairs of the whole model. The latter is in
    what the limit is in, where that is one in loss.
    """

    chosen: tuple[int, ...]
    overrides: tuple[Override, ...]
    limit: str
    used: float
    unit: str
    predicted: float
    measured: float

    def to_json(self) -> dict[str, object]:
        """The manifest's entry for it, of a language model."""
        return {
            "limit": self.limit,
            "used": f"{self.used:.6f} {self.unit}",
            "predicted_kl": float(f"{self.predicted:.6g}"),
            "measured_kl": float(f"{self.measured:.6g}"),
        }


Measure = Callable[[Sequence[int]], float]
"""The loss of the whole model with a candidate of each group, in what a limit in loss is in."""


def choose_schemes(
    subject: Description,
    recipe: Recipe,
    *,
    itemsize: Callable[[str], float],
    prices: Prices,
    measure: Measure,
    measured_in: str = "nats a token",
    begin: float | None = None,
) -> ChosenSchemes:
    """Choose a candidate for each group.

    ``subject`` is what is planned, a decoder with what transforms add to it. A limit in loss is ``measured_in`` that
    unit; where prices are in another one, the search begins at choices whose prices add up to ``begin``.

    Raises:
        InputError: no choice of candidates meets the budget; the message says the smallest budget that can be met.

    """
    budget = recipe.budget
    if budget is None:
        raise ValueError(f"recipe {recipe.name} has no budget")

    def plan(chosen: Sequence[int]) -> Plan:
        return make_plan(subject, with_choice(recipe, prices.groups, chosen), itemsize)

    refuse_impossible(subject, recipe, itemsize=itemsize, groups=prices.groups, form=prices.form)
    if prices.ms is not None:
        refuse_slow(prices.ms, budget)
    measured: float | None = None
    if budget.most_lost is not None:
        chosen, measured = _least_bytes(prices, budget, measure, plan, begin)
        used, unit = measured, measured_in
    elif budget.ms_per_token is not None:
        chosen, used = _within_time(prices, budget.ms_per_token)
        unit = "ms a token"
    else:
        limit, extra = _byte_limit(subject, recipe, budget, itemsize)
        chosen = _within_bytes(prices, limit - extra, plan)
        used, unit = (plan(chosen).data_bytes + extra) / 1e6, "MB"
    predicted = _total(prices.loss, chosen)
    return ChosenSchemes(
        chosen=tuple(chosen),
        overrides=tuple(_with_reasons(prices, chosen, recipe, budget)),
        limit=budget.limit,
        used=used,
        unit=unit,
        predicted=predicted,
        measured=measure(chosen) if measured is None else measured,
    )


def refuse_impossible(
    subject: Description,
    recipe: Recipe,
    *,
    itemsize: Callable[[str], float],
    groups: Sequence[TensorGroup],
    form: Form | None = None,
) -> None:
    """Raise InputError when not even the smallest candidates meet a budget in bytes, for which nothing is measured."""
    budget = recipe.budget
    if budget is None or budget.most_lost is not None or budget.ms_per_token is not None:
        return
    limit, extra = _byte_limit(subject, recipe, budget, itemsize)
    smallest = _smallest(Prices(groups, [], form=form or block_form(recipe)).bytes())
    data_bytes = make_plan(subject, with_choice(recipe, groups, smallest), itemsize).data_bytes
    if data_bytes > limit - extra:
        raise InputError(_say_bytes(budget, data_bytes + extra, limit))


def refuse_slow(ms: Sequence[Sequence[float]], budget: Budget) -> None:
    """Raise InputError when not even the fastest candidates, ``ms`` per token each, meet a budget in time."""
    least = math.fsum(min(row) for row in ms)
    if budget.ms_per_token is not None and least > budget.ms_per_token:
        raise InputError(
            f"[budget] ms_per_token = {budget.ms_per_token} cannot be met with these candidates on this host; the "
            f"smallest that can is {least:.6f}: raise it, or add faster candidates"
        )


def _smallest(sizes: Sequence[Sequence[int]]) -> list[int]:
    return [row.index(min(row)) for row in sizes]


def _total(table: Sequence[Sequence[float]], chosen: Sequence[int]) -> float:
    return math.fsum(row[option] for row, option in zip(table, chosen, strict=True))


# ---- bytes ----------------------------------------------------------------------------------------------------------


def _byte_limit(
    subject: Description, recipe: Recipe, budget: Budget, itemsize: Callable[[str], float]
) -> tuple[int, int]:
    """The limit in bytes, and what counts towards it beside the data file."""
    if budget.most_bytes is not None:
        beside = 0 if budget.memory_mb is None else bytes_beside(make_plan(subject, recipe, itemsize), recipe)
        return budget.most_bytes, beside
    like = replace(read_recipe(str(budget.like)), context_length=recipe.context_length)
    if not like.activations.is_written:  # a bundle of that preset would have the same graphs
        like = replace(like, activations=recipe.activations)
    return make_plan(subject, like, itemsize).data_bytes, 0


def _say_bytes(budget: Budget, smallest: int, limit: int) -> str:
    asked = budget.limit if budget.like is None else f"{budget.limit} ({limit / 1e6:.6f} MB)"
    key = "size_mb" if budget.memory_mb is None else "memory_mb"
    return (
        f"[budget] {asked} cannot be met with these candidates; the smallest that can is {key} = "
        f"{math.ceil(smallest) / 1e6:.6f}: raise it, or add smaller candidates"
    )


def _within_bytes(prices: Prices, limit: int, plan: Callable[[Sequence[int]], Plan]) -> list[int]:
    """The least KL with a data file of at most ``limit`` bytes, alignment included.

    The bytes of alignment depend on the whole choice, so the solver is given those of the last one; what is left of the
    limit at the end is used for single changes that still fit.
    """
    sizes = prices.bytes()
    smallest = _smallest(sizes)
    data_bytes = plan(smallest).data_bytes
    rest = data_bytes - int(_total(sizes, smallest))  # tables, float tensors, alignment
    while True:
        # beyond the least, the solver's own limit never falls below `smallest`, which fits
        chosen = choose(prices.loss, sizes, max(limit - rest, int(_total(sizes, smallest))))
        excess = plan(chosen).data_bytes - limit
        if excess <= 0:
            return _improve(prices, sizes, chosen, limit, plan)
        rest += excess


def _improve(
    prices: Prices,
    sizes: Sequence[Sequence[int]],
    chosen: list[int],
    limit: int,
    plan: Callable[[Sequence[int]], Plan],
) -> list[int]:
    """Change single groups, the largest gain first, as long as one lowers the sum of prices and fits."""
    while True:
        left = limit - plan(chosen).data_bytes
        steps = sorted(
            (loss - row[chosen[group]], group, option)
            for group, row in enumerate(prices.loss)
            for option, loss in enumerate(row)
            if loss < row[chosen[group]] and sizes[group][option] - sizes[group][chosen[group]] <= left + _PADDING
        )
        for _, group, option in steps:
            changed = [*chosen[:group], option, *chosen[group + 1 :]]
            if plan(changed).data_bytes <= limit:
                chosen = changed
                break
        else:
            return chosen


# ---- time and loss ---------------------------------------------------------------------------------------------------


def _within_time(prices: Prices, limit: float) -> tuple[list[int], float]:
    if prices.ms is None:
        raise ValueError("a budget in time needs measured times")
    chosen = choose(prices.loss, prices.ms, limit)
    return chosen, _total(prices.ms, chosen)


def _least_bytes(
    prices: Prices,
    budget: Budget,
    measure: Measure,
    plan: Callable[[Sequence[int]], Plan],
    begin: float | None,
) -> tuple[list[int], float]:
    """The smallest choice found whose measured loss is at most the budget's, and that loss.

    The sum of prices that the solver may reach starts at the limit, or at ``begin`` where prices are in another unit
    than it, and follows measured / predicted, between the largest that was met and the smallest that was not. A choice
    of one number of bits for all, as recipes without a budget make, is taken where it is smaller and meets the limit
    too.
    """
    target = budget.most_lost
    if target is None:
        raise ValueError("a budget in loss has a limit in loss")
    sizes = prices.bytes()
    best = [row.index(min(row)) for row in prices.loss]
    least = _total(prices.loss, best)
    low, high = least, math.inf  # sums of prices: the largest that met the target, the smallest that did not
    limit = max(target if begin is None else begin, least)
    measured: dict[tuple[int, ...], float] = {}
    for _ in range(_CORRECTIONS):
        chosen = tuple(choose(sizes, prices.loss, limit))
        if chosen in measured:
            break
        measured[chosen] = loss = measure(chosen)
        low, high = (limit, high) if loss <= target else (low, limit)
        if _NEAR * target <= loss <= target or (low > least and high < low / _NEAR):
            break
        corrected = target * _total(prices.loss, chosen) / loss if loss > 0 else 2 * limit
        limit = corrected if low < corrected < high else (low + min(high, 2 * low)) / 2
    met = [chosen for chosen, loss in measured.items() if loss <= target]
    if not met:
        loss = measure(best)
        if loss > target:
            raise InputError(
                f"[budget] {budget.limit} cannot be met with these candidates; the smallest that can is "
                f"{budget.limit.partition(' ')[0]} = {loss:.6g}: "
                "raise it, or add candidates with more bits"
            )
        met, measured[tuple(best)] = [tuple(best)], loss
    found = min(met, key=lambda chosen: _total(sizes, chosen))
    most = math.inf if begin is not None else 2 * target
    for alike in _alike(prices, sizes):
        smaller = plan(alike).data_bytes < plan(found).data_bytes
        if smaller and alike not in measured and _total(prices.loss, alike) <= most:
            measured[alike] = measure(alike)
        if smaller and measured.get(alike, math.inf) <= target:
            found = alike
    return list(found), measured[found]


def _alike(prices: Prices, sizes: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Choices of one number of bits for every group, each in the smallest form that it has in so many."""
    found = []
    for bits in sorted({scheme.bits for g in prices.groups for c in g.candidates for scheme in c.schemes if scheme}):
        options = [
            [
                number
                for number, candidate in enumerate(group.candidates)
                if all(scheme is not None and scheme.bits == bits for scheme in candidate.schemes)
            ]
            for group in prices.groups
        ]
        if all(options):
            found.append(tuple(min(row, key=size.__getitem__) for row, size in zip(options, sizes, strict=True)))
    return found


# ---- reasons --------------------------------------------------------------------------------------------------------


def _with_reasons(prices: Prices, chosen: Sequence[int], recipe: Recipe, budget: Budget) -> list[Override]:
    """The overrides, each with its price and that of the next better candidate as the reason."""
    sizes = prices.bytes()
    reasons: dict[str, str] = {}
    for group, option, loss, size in zip(prices.groups, chosen, prices.loss, sizes, strict=True):
        candidate = group.candidates[option]
        together = "" if len(group.weights) == 1 else f", all of {group.name} together"
        what = f"{prices.unit} {loss[option]:.2g}"
        text = f"{CHOSEN_BY_BUDGET} {budget.limit}: {_words(candidate.label)} costs {what}{together}"
        better = [other for other in range(len(loss)) if loss[other] < loss[option] and size[other] > size[option]]
        if better:
            other = max(better, key=lambda other: (loss[option] - loss[other]) / (size[other] - size[option]))
            text += (
                f"; {_words(group.candidates[other].label)} would save {loss[option] - loss[other]:.2g} "
                f"for {(size[other] - size[option]) / 1e3:,.1f} kB"
            )
        reasons |= {escape(weight.name): text for weight in group.weights}
    return [replace(entry, reason=reasons[entry.match]) for entry in overrides(prices.groups, chosen, recipe)]


def _words(label: str) -> str:
    bits, _, block = label.partition(":")
    return f"{bits} bits, block {block}" if block else "float32"


def prices_to_json(groups: Sequence[TensorGroup], loss: Sequence[Sequence[float]]) -> dict[str, dict[str, float]]:
    """The manifest's entry of every measured price: the loss by group and candidate."""
    return {
        group.name: {
            candidate.label: float(f"{price:.4g}") for candidate, price in zip(group.candidates, row, strict=True)
        }
        for group, row in zip(groups, loss, strict=True)
    }
