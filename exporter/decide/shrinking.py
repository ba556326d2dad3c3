"""A traced model after the steps of a recipe that prunes: see :mod:`edgepress.exporter.learn.pruning.graphs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgepress.exporter.doors.traced import Samples, Traced
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.terminal.progress import Progress


@dataclass(frozen=True)
class ShrunkTraced:
    """The model that the steps left, what the manifest says of them, and those that a plan leaves out."""

    traced: Traced
    steps: tuple[Mapping[str, object], ...] = ()
    skipped: tuple[str, ...] = ()


def shrink_traced(
    traced: Traced, recipe: Recipe, samples: Samples | None, *, stages: Path, train: bool, progress: Progress
) -> ShrunkTraced:
    """Run the steps of ``prune``, their stages in ``stages``; as it is where there are none.

    The pruned graph is then what a bundle is held against: what the original computes is no longer right.

    Raises:
        InputError: a step cannot be done to this graph, or needs samples that there are not.

    """
    if not recipe.prune:
        return ShrunkTraced(traced)

    from edgepress.exporter.learn.pruning.graphs import shrink_graph
    from edgepress.exporter.methods.removing import few_samples

    found = shrink_graph(traced.file, recipe, samples, folder=stages, train=train, progress=progress)
    pruned = replace(traced, file=found.file, compute=None).noted(*filter(None, map(few_samples, found.steps)))
    return ShrunkTraced(pruned, found.steps, found.skipped)
