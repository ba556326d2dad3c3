"""Which weights keep the codes that the checkpoint stores for them, by a recipe with a method that does that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.methods.kinds import Keeping, Method, load_method
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.parts.tree import changed
from edgepress.exporter.plan.schemes import is_kept
from edgepress.exporter.recipe.recipe import KEPT_BITS, Override, Recipe, Storage
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.packed import Grid

_LOWEST = "−128, which integer products have as −127"


def kept_codes(checkpoint: Checkpoint, decoder: Decoder, recipe: Recipe) -> tuple[Override, ...]:
    """How each weight is stored for which the recipe names a method that keeps codes: so, or rounded, and why.

    Raises:
        InputError: the recipe does something else to weights, which leaves no codes to keep.

    """
    names = {storage.method for storage in recipe.storages}
    keeping = {name: one for name in names if (one := _keeping(name)) is not None}
    if not keeping:
        return ()
    _refuse_others(recipe, min(keeping))
    found: list[Override] = []
    for weight in decoder.weights():
        storage, asked = recipe.storage(weight.name, weight.kind)
        if storage.method in keeping and not is_kept(weight):
            entry = _one(checkpoint, weight, storage, asked, keeping[storage.method], recipe.activations.is_integer)
            if recipe.activations.is_integer and entry.storage.method == storage.method:
                entry = replace(entry, reason=f"{entry.reason}, but for codes of {_LOWEST}")
            found.append(entry)
    return tuple(found)


def with_orders(checkpoint: Checkpoint, decoder: Decoder, kept: Sequence[Override]) -> Decoder:
    """The decoder whose weights are ``ordered`` where the codes that are kept are: what graph and plan go by."""
    methods = {entry.match: entry.storage.method for entry in kept}

    def ordered(weight: Weight) -> Weight:
        keeps = _keeping(methods.get(weight.name, "rtn")) is not None
        return replace(weight, ordered=keeps and checkpoint.part_order(weight.parts[0]) is not None)

    return changed(Weight, decoder, ordered) if kept else decoder


def _keeping(name: str) -> Keeping | None:
    method = load_method(name)
    return method.keeping if isinstance(method, Method) else None


def _refuse_others(recipe: Recipe, name: str) -> None:
    others = [*recipe.prune, *recipe.before, *recipe.after, *(["[budget]"] if recipe.budget is not None else [])]
    if recipe.activations.is_calibrated:
        others.append(f"{recipe.activations.ranges} ranges")
    if others:
        raise InputError(
            f"recipe {recipe.name} has {', '.join(others)} and the method {name}, which stores the checkpoint's own "
            "codes and can change nothing; leave them out, or name another method, which rounds anew"
        )


def _one(  # noqa: PLR0917 - private: one caller, above
    checkpoint: Checkpoint, weight: Weight, storage: Storage, asked: str, keeping: Keeping, in_integers: bool
) -> Override:
    """The storage of one weight; all its parts have to be on one grid, and in one order."""
    how = checkpoint.how({part.tensor for part in weight.parts})
    grids = [checkpoint.grid(part) for part in weight.parts]
    first = grids[0]
    same = [grid for grid in grids if isinstance(grid, Grid) and isinstance(first, Grid) and _like(grid, first)]
    reason = next((grid for grid in grids if isinstance(grid, str)), "its parts are stored in different ways")
    orders = [checkpoint.part_order(part) for part in weight.parts]
    is_ordered = any(order is not None for order in orders)
    if is_ordered and isinstance(first, Grid):
        reason = _why_not_ordered(weight, orders, in_integers)
        same = [] if reason else same
    if isinstance(first, Grid) and len(same) == len(grids) and not weight.plus:
        kept = keeping.storage_of(replace(first, symmetric=all(grid.symmetric for grid in same)))
        if isinstance(kept, Storage):
            wider = f", {first.bits} bits in {kept.bits}" if kept.bits != first.bits else ""
            what = f"codes and scales unchanged{f', {first.loses}' if first.loses else ''}"
            what += ", columns by their groups" if is_ordered else ""
            return Override(weight.name, kept, f"{asked}: {what} ({how}{wider})")
        reason = kept
    kind = "kept as floats" if storage.bits >= KEPT_BITS // 2 else "rounded to nearest"
    loss = f"{how}: " if how else ""
    return Override(weight.name, replace(storage, method="rtn"), f"{asked}: {kind}, as {loss}{reason}")


def _why_not_ordered(weight: Weight, orders: Sequence[NDArray[np.int32] | None], in_integers: bool) -> str:
    """Why codes whose columns are not in their places cannot be kept so; "" where they can."""
    if weight.kind != "linear" or weight.stack is not None:
        return "its columns are in the order of their groups, which only plain projections can have"
    if in_integers:
        return "its columns are in the order of their groups, which integer products do not have"
    first = orders[0]
    if first is None or any(order is None or not np.array_equal(order, first) for order in orders):
        return "its parts have their columns in different orders"
    return ""


def _like(one: Grid, other: Grid) -> bool:
    return (one.bits, one.group) == (other.bits, other.group)
