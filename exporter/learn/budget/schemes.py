"""The schemes that meet a recipe's ``[budget]``: measure → solve → plan.

The price of a candidate is the KL that it costs by itself (:mod:`.sensitivity`); prices are added up to predict the KL
of a choice, and that of the final choice is measured. For a limit in bytes or time it is measured once; for ``kl`` the
limit given to the solver is corrected by measured over predicted KL until the measured one meets the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgepress.errors import InputError
from edgepress.exporter.learn.budget.sensitivity import TensorGroup, overrides, with_choice
from edgepress.exporter.learn.budget.solver import choose
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.plan.plan import PAGE, Form, Plan, block_form, make_plan, region_bytes
from edgepress.exporter.recipe.recipe import CHOSEN_BY_BUDGET, Budget, Override, Recipe, read_recipe

_CORRECTIONS = 8  # solutions that are measured at most for a budget in KL
_NEAR = 0.98  # the search ends when the measured KL is at least this share of the budget, and within it
_PADDING = 8 * PAGE  # bytes: more than one tensor's change of size can move the padding of the others


@dataclass(frozen=True)
class Prices:
    """What each candidate of each group costs: ``kl`` in nats per token and, for a budget in time, ``ms`` per token.

    ``form`` is how blocks are stored.
    """

    groups: Sequence[TensorGroup]
    kl: Sequence[Sequence[float]]
    ms: Sequence[Sequence[float]] | None = None
    form: Form = "blocks"

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

    ``used`` is how much of the limit it needs, in ``unit``; ``predicted_kl`` is the sum of the prices, ``measured_kl``
    the KL of the whole model, rounded as the export rounds it but without repairs of the whole model; both in nats per
    token.
    """

    chosen: tuple[int, ...]
    overrides: tuple[Override, ...]
    limit: str
    used: float
    unit: str
    predicted_kl: float
    measured_kl: float

    def to_json(self) -> dict[str, object]:
        """The manifest's entry for it."""
        return {
            "limit": self.limit,
            "used": f"{self.used:.6f} {self.unit}",
            "predicted_kl": float(f"{self.predicted_kl:.6g}"),
            "measured_kl": float(f"{self.measured_kl:.6g}"),
        }


Measure = Callable[[Sequence[int]], float]
"""KL of the whole model, nats per token, with a candidate of each group."""


def choose_schemes(
    decoder: Decoder, recipe: Recipe, *, itemsize: Callable[[str], float], prices: Prices, measure: Measure
) -> ChosenSchemes:
    """Choose a candidate for each group.

    ``decoder`` is the one that is planned, with what transforms add to it.

    Raises:
        InputError: no choice of candidates meets the budget; the message says the smallest budget that can be met.

    """
    budget = recipe.budget
    if budget is None:
        raise ValueError(f"recipe {recipe.name} has no budget")

    def plan(chosen: Sequence[int]) -> Plan:
        return make_plan(decoder, with_choice(recipe, prices.groups, chosen), itemsize)

    refuse_impossible(decoder, recipe, itemsize=itemsize, groups=prices.groups)
    if prices.ms is not None:
        refuse_slow(prices.ms, budget)
    measured: float | None = None
    if budget.kl is not None:
        chosen, measured = _least_bytes(prices, budget.kl, measure, plan)
        used, unit = measured, "nats a token"
    elif budget.ms_per_token is not None:
        chosen, used = _within_time(prices, budget.ms_per_token)
        unit = "ms a token"
    else:
        limit, extra = _byte_limit(decoder, recipe, budget, itemsize)
        chosen = _within_bytes(prices, limit - extra, plan)
        used, unit = (plan(chosen).data_bytes + extra) / 1e6, "MB"
    predicted = _total(prices.kl, chosen)
    return ChosenSchemes(
        chosen=tuple(chosen),
        overrides=tuple(_with_reasons(prices, chosen, recipe, budget)),
        limit=budget.limit,
        used=used,
        unit=unit,
        predicted_kl=predicted,
        measured_kl=measure(chosen) if measured is None else measured,
    )


def refuse_impossible(
    decoder: Decoder, recipe: Recipe, *, itemsize: Callable[[str], float], groups: Sequence[TensorGroup]
) -> None:
    """Raise InputError when not even the smallest candidates meet a budget in bytes, for which nothing is measured."""
    budget = recipe.budget
    if budget is None or budget.kl is not None or budget.ms_per_token is not None:
        return
    limit, extra = _byte_limit(decoder, recipe, budget, itemsize)
    smallest = _smallest(Prices(groups, [], form=block_form(recipe)).bytes())
    data_bytes = make_plan(decoder, with_choice(recipe, groups, smallest), itemsize).data_bytes
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


def _byte_limit(decoder: Decoder, recipe: Recipe, budget: Budget, itemsize: Callable[[str], float]) -> tuple[int, int]:
    """The limit in bytes, and what counts towards it beside the data file."""
    if budget.size_mb is not None:
        return _bytes(budget.size_mb), 0
    if budget.memory_mb is not None:
        return _bytes(budget.memory_mb), make_plan(decoder, recipe, itemsize).cache_bytes
    like = replace(read_recipe(str(budget.like)), context_length=recipe.context_length)
    if not like.activations.is_written:  # a bundle of that preset would have the same graphs
        like = replace(like, activations=recipe.activations)
    return make_plan(decoder, like, itemsize).data_bytes, 0


def _bytes(megabytes: float) -> int:
    """Whole bytes: 0.128512 · 10⁶ is 128511.99999999999 in float64, and 128,512 is meant."""
    return math.floor(round(megabytes * 1e6, 3))


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
        chosen = choose(prices.kl, sizes, max(limit - rest, int(_total(sizes, smallest))))
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
            (kl - row[chosen[group]], group, option)
            for group, row in enumerate(prices.kl)
            for option, kl in enumerate(row)
            if kl < row[chosen[group]] and sizes[group][option] - sizes[group][chosen[group]] <= left + _PADDING
        )
        for _, group, option in steps:
            changed = [*chosen[:group], option, *chosen[group + 1 :]]
            if plan(changed).data_bytes <= limit:
                chosen = changed
                break
        else:
            return chosen


# ---- time and KL ----------------------------------------------------------------------------------------------------


def _within_time(prices: Prices, limit: float) -> tuple[list[int], float]:
    if prices.ms is None:
        raise ValueError("a budget in time needs measured times")
    chosen = choose(prices.kl, prices.ms, limit)
    return chosen, _total(prices.ms, chosen)


def _least_bytes(
    prices: Prices, target: float, measure: Measure, plan: Callable[[Sequence[int]], Plan]
) -> tuple[list[int], float]:
    """The smallest choice found whose measured KL is at most ``target``, and that KL.

    The sum of prices that the solver may reach starts at ``target`` and follows measured / predicted, between the
    largest that was met and the smallest that was not. A choice of one number of bits for all, as recipes without a
    budget make, is taken where it is smaller and meets the target too.
    """
    sizes = prices.bytes()
    best = [row.index(min(row)) for row in prices.kl]
    least = _total(prices.kl, best)
    low, high = least, math.inf  # sums of prices: the largest that met the target, the smallest that did not
    limit = max(target, least)
    measured: dict[tuple[int, ...], float] = {}
    for _ in range(_CORRECTIONS):
        chosen = tuple(choose(sizes, prices.kl, limit))
        if chosen in measured:
            break
        measured[chosen] = kl = measure(chosen)
        low, high = (limit, high) if kl <= target else (low, limit)
        if _NEAR * target <= kl <= target or (low > least and high < low / _NEAR):
            break
        corrected = target * _total(prices.kl, chosen) / kl if kl > 0 else 2 * limit
        limit = corrected if low < corrected < high else (low + min(high, 2 * low)) / 2
    met = [chosen for chosen, kl in measured.items() if kl <= target]
    if not met:
        kl = measure(best)
        if kl > target:
            raise InputError(
                f"[budget] kl = {target} cannot be met with these candidates; the smallest that can is kl = {kl:.6g}: "
                "raise it, or add candidates with more bits"
            )
        met, measured[tuple(best)] = [tuple(best)], kl
    found = min(met, key=lambda chosen: _total(sizes, chosen))
    for alike in _alike(prices, sizes):
        smaller = plan(alike).data_bytes < plan(found).data_bytes
        if smaller and alike not in measured and _total(prices.kl, alike) <= 2 * target:
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
    for group, option, kl, size in zip(prices.groups, chosen, prices.kl, sizes, strict=True):
        candidate = group.candidates[option]
        together = "" if len(group.weights) == 1 else f", all of {group.name} together"
        text = f"{CHOSEN_BY_BUDGET} {budget.limit}: {_words(candidate.label)} costs KL {kl[option]:.2g}{together}"
        better = [other for other in range(len(kl)) if kl[other] < kl[option] and size[other] > size[option]]
        if better:
            other = max(better, key=lambda other: (kl[option] - kl[other]) / (size[other] - size[option]))
            text += (
                f"; {_words(group.candidates[other].label)} would save {kl[option] - kl[other]:.2g} "
                f"for {(size[other] - size[option]) / 1e3:,.1f} kB"
            )
        reasons |= {weight.name: text for weight in group.weights}
    return [replace(entry, reason=reasons[entry.match]) for entry in overrides(prices.groups, chosen, recipe)]


def _words(label: str) -> str:
    bits, _, block = label.partition(":")
    return f"{bits} bits, block {block}" if block else "float32"


def prices_to_json(groups: Sequence[TensorGroup], kl: Sequence[Sequence[float]]) -> dict[str, dict[str, float]]:
    """The manifest's entry of every measured price: KL in nats per token by group and candidate."""
    return {
        group.name: {
            candidate.label: float(f"{price:.4g}") for candidate, price in zip(group.candidates, row, strict=True)
        }
        for group, row in zip(groups, kl, strict=True)
    }
