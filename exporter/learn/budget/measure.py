"""Choose the schemes that meet a recipe's ``[budget]``, from the KL that each costs on this checkpoint and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.exporter.arrays.parallel import cores
from edgepress.exporter.learn.budget.rounder import Rounder
from edgepress.exporter.learn.budget.schemes import ChosenSchemes, Prices, choose_schemes, prices_to_json, refuse_slow
from edgepress.exporter.learn.budget.sensitivity import (
    TensorGroup,
    measure_prices,
    tensor_groups,
    total_passes,
    with_choice,
)
from edgepress.exporter.learn.budget.shipped import measure_shipped
from edgepress.exporter.learn.budget.speed import group_ms
from edgepress.exporter.learn.calibration.run import (
    describe_tokens,
    given_tokens,
    layers_first,
    text_key,
    use_threads,
    versions,
    wanted_text,
    written_tokens,
)
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.plan.forms import block_form
from edgepress.exporter.plan.planned import Planned
from edgepress.exporter.recipe.recipe import Budget, CalibrationText, Recipe
from edgepress.exporter.streams.store import Store
from edgepress.exporter.streams.text import CalibrationTokens, sequences_asked
from edgepress.exporter.streams.variants import BaseRun
from edgepress.terminal.progress import Progress

_WHOLE = 4  # times the tokens of a price for those of a choice: 8,192 give a KL to about 5 % on tiny1m and stories260k


def meet_budget(
    planned: Planned,
    plain: Decoder,
    folder: Path,
    *,
    bos: int | None,
    threads: int | None,
    progress: Progress,
) -> tuple[ChosenSchemes, dict[str, object]]:
    """Choose each tensor's scheme; returns it with the manifest's entry about the choice.

    ``planned`` is planned without the budget; ``plain`` is the checkpoint's own decoder: prices are measured without
    transforms, the final choice with them. Measurements stay in ``folder`` for the next run with the same model, text
    and candidates.

    Raises:
        InputError: the text cannot be used, or nothing among the candidates meets the budget.

    """
    budget = planned.recipe.budget
    if budget is None:
        raise ValueError(f"recipe {planned.recipe.name} has no budget")
    with use_threads(plain, threads):
        return _meet_budget(planned, plain, budget, folder, bos=bos, threads=threads, progress=progress)


def _meet_budget(
    planned: Planned,
    plain: Decoder,
    budget: Budget,
    folder: Path,
    *,
    bos: int | None,
    threads: int | None,
    progress: Progress,
) -> tuple[ChosenSchemes, dict[str, object]]:
    recipe, checkpoint = planned.recipe, planned.checkpoint
    settings = _settings(planned, budget)
    given = given_tokens(planned, settings, bos)
    groups, every = tensor_groups(plain, recipe, budget), budget.measure == "every"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ms = group_ms(plain, groups, recipe.accuracy_level) if budget.ms_per_token is not None else None
    if ms is not None:  # takes seconds, and prices take minutes
        refuse_slow(ms, budget)

    def read(weight: Weight) -> Tensor:
        return torch.from_numpy(read_weight(checkpoint, weight)).to(device)

    with Store.open(folder, _key(planned, settings, groups, given)) as store:
        chosen = given or written_tokens(planned, settings, store, threads=threads, progress=progress)
        shipped = given_tokens(planned, wanted_text(planned), bos) or chosen
        seen, scored = split_text(shipped.tokens, chosen.tokens, recipe, budget)
        first = scored.shape[1] // 2  # as evaluations score: the second half of a window, which has seen the first
        few = scored[:: max(1, len(scored) // sequences_asked(replace(recipe.calibration, tokens=budget.tokens)))]
        priced = BaseRun(plain, read, few, _folder(store, "priced"), device, first=first)
        whole = BaseRun(plain, read, scored, _folder(store, "whole"), device, first=first)
        looked_at = BaseRun(plain, read, seen, _folder(store, "seen"), device)
        rounder, runs = Rounder(looked_at, recipe), (priced, whole, looked_at)
        total = len(runs) * len(plain.layers) + total_passes(plain, groups, every=every)
        with progress(total, "measuring the loss by tensor", " layers") as advance:
            for run in runs:
                run.run(advance)
            kl = measure_prices(priced, groups, store, rounder, every=every, advance=advance)

        def measure(chosen: Sequence[int]) -> float:
            made = with_choice(recipe, groups, chosen)
            return measure_shipped(whole, checkpoint, planned.decoder, made, seen=seen, itemsize=checkpoint.itemsize)

        prices = Prices(groups, kl, ms, block_form(recipe))
        found = choose_schemes(planned.decoder, recipe, itemsize=checkpoint.itemsize, prices=prices, measure=measure)
        for run in runs:
            run.remove()
    return found, {
        **found.to_json(),
        "rounded_by": _rounded_by(groups, rounder),
        **describe_tokens(settings, CalibrationTokens(scored, chosen.warnings)),
        "rounded_on": len(seen),
        "prices": prices_to_json(groups, kl),
    }


def _settings(planned: Planned, budget: Budget) -> CalibrationText:
    """Ask for as much text as calibration and the measurement of KL need together."""
    settings = planned.recipe.calibration
    both = settings.tokens + budget.tokens
    if settings.text:  # to read more takes little time, to write it much
        both += (_WHOLE - 1) * budget.tokens
        both = max(both, wanted_text(planned).tokens)
    return replace(settings, tokens=both)


def split_text(
    shipped: NDArray[np.int64], tokens: NDArray[np.int64], recipe: Recipe, budget: Budget
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequences for calibration, from the export's own ``shipped``, and others to measure KL on.

    All are (sequences, length); ``tokens`` has some that ``shipped`` may lack. Where there is enough text, KL is
    measured on four times as many as prices need, because the final choice is compared with the budget on them. Where
    there is too little for both, a third is measured on; a single sequence is used for both.
    """
    ordered, count = layers_first(shipped, recipe.calibration)
    seen, asked = ordered[:count], sequences_asked(replace(recipe.calibration, tokens=_WHOLE * budget.tokens))
    known = {row.tobytes() for row in seen}
    others = np.array([row.tobytes() not in known for row in tokens])
    scored = tokens[others]
    if len(scored) < min(asked, len(tokens) // 3):
        third = np.arange(len(tokens)) % 3 == 2
        seen, scored = tokens[~third], tokens[third]
    if not len(scored):
        return seen, seen
    count = min(asked, len(scored))
    return seen, scored[np.arange(count) * len(scored) // count]


def _rounded_by(groups: Sequence[TensorGroup], rounder: Rounder) -> list[str]:
    """Names of the methods that rounded when prices were measured."""
    return sorted(
        {
            rounder.method(weight, scheme).name
            for group in groups
            for candidate in group.candidates
            for weight, scheme in zip(group.weights, candidate.schemes, strict=True)
            if scheme is not None
        }
    )


def _folder(store: Store, name: str) -> Path:
    folder = store.directory / name
    folder.mkdir(exist_ok=True)
    return folder


def _key(
    planned: Planned, settings: CalibrationText, groups: Sequence[TensorGroup], given: CalibrationTokens | None
) -> dict[str, object]:
    """Everything that decides a price; the limit is not among it, so that prices serve any other limit too."""
    return {
        "source": planned.checkpoint.source_hashes(),
        "groups": [
            [group.name, [[None if s is None else asdict(s) for s in c.schemes] for c in group.candidates]]
            for group in groups
        ],
        "options": planned.recipe.to_json()["options"],
        "tokens": text_key(settings, given),
        "measure": planned.recipe.budget and [planned.recipe.budget.measure, planned.recipe.budget.tokens],
        "versions": versions(),
        "threads": cores(),
        "cuda": torch.cuda.is_available(),
    }
