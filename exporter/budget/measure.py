"""Measure what a recipe's ``[budget]`` needs to know, on this checkpoint and text, and spend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgepress.exporter.budget.sensitivity import (
    TensorGroup,
    change,
    measure_choice,
    measure_prices,
    rounding_method,
    tensor_groups,
    total_passes,
)
from edgepress.exporter.budget.speed import group_ms
from edgepress.exporter.budget.spend import Prices, Spent, prices_to_json, spend
from edgepress.exporter.calibration.run import (
    describe_tokens,
    given_tokens,
    text_key,
    use_threads,
    versions,
    written_tokens,
)
from edgepress.exporter.calibration.store import Store
from edgepress.exporter.calibration.text import CalibrationTokens
from edgepress.exporter.calibration.variants import BaseRun, Change
from edgepress.exporter.checkpoint import read_weight
from edgepress.exporter.decoder import Decoder, Weight
from edgepress.exporter.recipe import Budget
from edgepress.progress import Progress

if TYPE_CHECKING:
    from edgepress.exporter.prepare import Prepared


def spend_budget(
    prepared: Prepared,
    plain: Decoder,
    *,
    scratch: Path,
    bos: int | None,
    threads: int | None,
    progress: Progress,
) -> tuple[Spent, dict[str, object]]:
    """Choose each tensor's scheme, and say what the manifest keeps about the choice.

    ``prepared`` is planned without the budget; ``plain`` is the checkpoint's own decoder: prices are those of rounding
    without transforms. What is measured stays in ``scratch`` for the next run with the same model, text and candidates.

    Raises:
        InputError: the text cannot be used, or nothing among the candidates meets the budget.

    """
    budget = prepared.recipe.budget
    if budget is None:
        raise ValueError(f"recipe {prepared.recipe.name} has no budget")
    with use_threads(plain, threads):
        return _spend(prepared, plain, budget, scratch=scratch, bos=bos, threads=threads, progress=progress)


def _spend(
    prepared: Prepared,
    plain: Decoder,
    budget: Budget,
    *,
    scratch: Path,
    bos: int | None,
    threads: int | None,
    progress: Progress,
) -> tuple[Spent, dict[str, object]]:
    recipe, checkpoint = prepared.recipe, prepared.checkpoint
    short = replace(prepared, recipe=replace(recipe, calibration=replace(recipe.calibration, tokens=budget.tokens)))
    given = given_tokens(short, bos)
    groups, every = tensor_groups(plain, recipe, budget), budget.measure == "every"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def read(weight: Weight) -> Tensor:
        return torch.from_numpy(read_weight(checkpoint, weight)).to(device)

    with Store.open(scratch, _key(short, groups, given)) as store:
        chosen = given or written_tokens(short, store, threads=threads, progress=progress)
        base = BaseRun(plain, read, chosen.tokens, store.directory, device)
        total = len(plain.layers) + total_passes(plain, groups, every=every)
        with progress(total, "measuring what each tensor may lose", " layers") as advance:
            base.run(advance)
            kl = measure_prices(base, groups, store, every=every, advance=advance)
        ms = group_ms(plain, groups, recipe.accuracy_level) if budget.ms_per_token is not None else None
        fixed = _fixed(prepared, base, groups)
        spent = spend(
            prepared.decoder,
            recipe,
            itemsize=lambda name: checkpoint.tensors[name].itemsize,
            prices=Prices(groups, kl, ms),
            measure=lambda options: measure_choice(base, groups, options, fixed),
        )
        base.remove()
    return spent, {
        **spent.to_json(),
        "rounded_by": _rounded_by(groups),
        **describe_tokens(short.recipe, chosen),
        "prices": prices_to_json(groups, kl),
    }


def _fixed(prepared: Prepared, base: BaseRun, groups: Sequence[TensorGroup]) -> Change:
    """What the recipe quantizes whatever the budget says."""
    free = {weight.name for group in groups for weight in group.weights}
    known = {weight.name for weight in base.decoder.weights()}
    tensors = [t for t in prepared.plan.tensors if t.scheme and t.weight.name in known - free]
    return change(base.read, [t.weight for t in tensors], [t.scheme for t in tensors])


def _rounded_by(groups: Sequence[TensorGroup]) -> list[str]:
    """Names of the methods that rounded when prices were measured."""
    return sorted({rounding_method(s).name for g in groups for c in g.candidates for s in c.schemes if s is not None})


def _key(short: Prepared, groups: Sequence[TensorGroup], given: CalibrationTokens | None) -> dict[str, object]:
    """Everything that decides a price; the limit is not among it, so that another one is tried at once."""
    return {
        "source": short.checkpoint.source_hashes(),
        "groups": [
            [group.name, [[None if s is None else asdict(s) for s in c.schemes] for c in group.candidates]]
            for group in groups
        ],
        "tokens": text_key(short.recipe.calibration, given),
        "measure": short.recipe.budget and short.recipe.budget.measure,
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
    }
