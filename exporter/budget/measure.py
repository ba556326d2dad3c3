"""Measure what a recipe's ``[budget]`` needs to know, on this checkpoint and text, and spend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from edgepress import __version__
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
from edgepress.exporter.calibration.run import calibration_tokens, describe_tokens, use_threads
from edgepress.exporter.calibration.store import Store
from edgepress.exporter.calibration.variants import BaseRun, Change
from edgepress.exporter.checkpoint import read_weight
from edgepress.exporter.decoder import Decoder, Weight
from edgepress.progress import Progress

if TYPE_CHECKING:
    from edgepress.exporter.export import Prepared


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
    recipe, checkpoint = prepared.recipe, prepared.checkpoint
    budget = recipe.budget
    if budget is None:
        raise ValueError(f"recipe {recipe.name} has no budget")
    use_threads(plain, threads)
    short = replace(recipe, calibration=replace(recipe.calibration, tokens=budget.tokens))
    chosen_tokens = calibration_tokens(
        replace(prepared, recipe=short), bos, out=scratch, threads=threads, progress=progress
    )
    described = describe_tokens(short, chosen_tokens)
    tokens = chosen_tokens.tokens
    groups, every = tensor_groups(plain, recipe, budget), budget.measure == "every"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def read(weight: Weight) -> Tensor:
        return torch.from_numpy(read_weight(checkpoint, weight)).to(device)

    with Store.open(scratch, _key(prepared, groups, described)) as store:
        base = BaseRun(plain, read, tokens, store.directory, device)
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
            measure=lambda chosen: measure_choice(base, groups, chosen, fixed),
        )
        base.remove()
    summary = {**spent.to_json(), "rounded_by": _rounded_by(groups), **described, "prices": prices_to_json(groups, kl)}
    return spent, summary


def _fixed(prepared: Prepared, base: BaseRun, groups: Sequence[TensorGroup]) -> Change:
    """What the recipe quantizes whatever the budget says."""
    free = {weight.name for group in groups for weight in group.weights}
    known = {weight.name for weight in base.decoder.weights()}
    tensors = [t for t in prepared.plan.tensors if t.scheme and t.weight.name in known - free]
    return change(base.read, [t.weight for t in tensors], [t.scheme for t in tensors])


def _rounded_by(groups: Sequence[TensorGroup]) -> list[str]:
    """Names of the methods that rounded when prices were measured."""
    return sorted({rounding_method(s).name for g in groups for c in g.candidates for s in c.schemes if s is not None})


def _key(prepared: Prepared, groups: Sequence[TensorGroup], described: dict[str, object]) -> dict[str, object]:
    """Everything that decides a price; the limit is not among it, so that another one is tried at once."""
    return {
        "source": prepared.checkpoint.source_hashes(),
        "groups": [
            [group.name, [[None if s is None else asdict(s) for s in c.schemes] for c in group.candidates]]
            for group in groups
        ],
        "tokens": described["tokens_sha256"],
        "measure": prepared.recipe.budget and prepared.recipe.budget.measure,
        "versions": {"edgepress": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
    }
