"""The measured KL of a choice: the model rounded as the export rounds it, without repairs of the whole model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.learn.calibration.engine import Calibration
from edgepress.exporter.methods.kinds import Method, Repair, load_method, start_method
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.plan.making import make_plan
from edgepress.exporter.recipe.recipe import Activations, Recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.store import Store
from edgepress.exporter.streams.variants import BaseRun, divergences


def before_repairs(recipe: Recipe) -> Recipe:
    """The recipe without its slowest methods: those that train layers, and repairs of the whole model.

    Integer and float16 activations are left out too: a budget is about the loss by rounding weights.
    """
    kept = tuple(name for name in recipe.after if isinstance(m := load_method(name), Repair) and m.model is None)
    started = recipe.with_methods(lambda method: start_method(method, recipe).name)
    return replace(started, after=kept, activations=Activations())


def measure_shipped(
    reference: BaseRun,
    checkpoint: Checkpoint,
    decoder: Decoder,
    recipe: Recipe,
    *,
    seen: NDArray[np.int64],
    itemsize: Callable[[str], float],
) -> float:
    """KL(reference ‖ the model that ``recipe`` stores), nats a token of the reference's text.

    ``reference`` is the full-precision model, run; ``seen`` (sequences, length) are the calibration tokens, for the
    same engine as the export's; ``decoder`` is the one that is planned, with what methods add to it.
    """
    recipe = before_repairs(recipe)
    plan = make_plan(decoder, recipe, itemsize)
    with (
        TemporaryDirectory(dir=reference.streams[0].path.parent, prefix="choice-") as name,
        Store.open(Path(name) / "stages", {}) as store,
    ):
        calibration = Calibration(checkpoint, decoder, plan, recipe, tokens=seen, store=store)
        if recipe.before or recipe.after or any(not isinstance(load_method(one), Method) for one in plan.methods):
            calibration.run()
        tokens, first = reference.tokens, reference.first
        stored = BaseRun(decoder, calibration.values(), tokens, Path(name), reference.device, first=first)
        stored.run()
        (found,) = divergences(stored, reference, len(decoder.layers), [{}])
    return found
