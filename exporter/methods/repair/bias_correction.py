"""Bias correction (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", 4.2).

Rounding moves a projection's mean output by E[(Ŵ − W) x]; that much is subtracted from its bias, the mean being over
the calibration text, with x computed by the rounded weights before it. Projections are corrected in the order in which
they are computed. One without a bias gets one, unless ``only_existing``; it takes 4 bytes a row: 32 / columns bits a
weight.

Weights rounded by :mod:`.gptq` gain nothing, as GPTQ corrects the mean already: ``gptq + bias_correction, …`` beside
``gptq, …`` in the results of ``benchmarks/accuracy.py``. It is for methods that round without calibration text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from edgepress.exporter.methods.kinds import Repair, method_options
from edgepress.exporter.methods.options import Option, Options
from edgepress.exporter.model import network
from edgepress.exporter.model.description import Decoder, Layer, layer_groups, layer_rounds
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.model.parts.tree import changed
from edgepress.exporter.recipe.recipe import KEPT_BITS, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.methods.tasks import LayerTask


def _describe(decoder: Decoder, recipe: Recipe) -> Decoder:
    if method_options(METHOD, recipe)["only_existing"]:
        return decoder
    return replace(decoder, layers=tuple(_with_biases(layer, recipe) for layer in decoder.layers))


def _with_biases(layer: Layer, recipe: Recipe) -> Layer:
    def biased(linear: Linear) -> Linear:
        weight = linear.weight
        kept = weight.kind in {"router", "copies"} or recipe.storage(weight.name, weight.kind)[0].bits == KEPT_BITS
        if linear.bias is not None or kept:
            return linear
        return replace(linear, bias=Weight(f"{weight.name}.bias", "bias", weight.shape[:1], (), stack=weight.stack))

    return changed(Linear, layer, biased)


def _correct(task: LayerTask, options: Options) -> None:  # noqa: ARG001 - the options are describe's
    for groups in layer_rounds(task.layer):
        for linears, mean in _mean_inputs(task, groups):
            for linear in linears:
                weight, bias = linear.weight, linear.bias
                if weight.name in task.codes and bias is not None:
                    moved = (task.values(weight) - task.full(weight)) @ mean
                    task.repaired[bias.name] = task.values(bias) - moved


def _mean_inputs(task: LayerTask, groups: list[int]) -> list[tuple[tuple[Linear, ...], Tensor]]:
    """Projections of these numbers of the layer's groups, and the mean of what goes into each, (columns,)."""
    linears = [layer_groups(task.layer)[group] for group in groups]
    totals = [torch.zeros(group[0].weight.shape[1], dtype=torch.float64, device=task.device) for group in linears]
    counts = [0] * len(groups)
    for x in task.inputs:
        steps = network.layer_steps(task.layer, task.values, x, task.rotaries)
        _, y = next(steps)
        passed = 0
        for place, group in enumerate(groups):
            for _ in range(group - passed):
                _, y = steps.send(y)
            passed = group
            totals[place] += y.sum((0, 1), dtype=torch.float64)
            counts[place] += y.shape[0] * y.shape[1]
    means = [(total / max(count, 1)).float() for total, count in zip(totals, counts, strict=True)]
    return list(zip(linears, means, strict=True))  # no token may have come to an expert: a mean of zeros


METHOD = Repair("bias_correction", _describe, layer=_correct, declared={"only_existing": Option(False)})
