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
from edgepress.exporter.model.description import Decoder, Layer, Linear, Weight, changed, layer_groups
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
        kept = weight.kind == "router" or recipe.storage(weight.name, weight.kind)[0].bits == KEPT_BITS
        if linear.bias is not None or kept:
            return linear
        return replace(linear, bias=Weight(f"{weight.name}.bias", "bias", weight.shape[:1], (), stack=weight.stack))

    return changed(Linear, layer, biased)


def _correct(task: LayerTask, options: Options) -> None:  # noqa: ARG001 - the options are describe's
    for group in range(len(layer_groups(task.layer))):
        linears, mean = _mean_input(task, group)
        for linear in linears:
            weight, bias = linear.weight, linear.bias
            if weight.name in task.codes and bias is not None:
                moved = (task.values(weight) - task.full(weight)) @ mean
                task.repaired[bias.name] = task.values(bias) - moved


def _mean_input(task: LayerTask, group: int) -> tuple[tuple[Linear, ...], Tensor]:
    """Projections number ``group`` of the layer, and the mean of what goes into them, (columns,)."""
    total, count = torch.zeros(1, dtype=torch.float64, device=task.device), 0
    linears: tuple[Linear, ...] = ()
    for x in task.inputs:
        steps = network.layer_steps(task.layer, task.values, x, task.rotaries)
        linears, y = next(steps)
        for _ in range(group):
            linears, y = steps.send(y)
        total = total + y.sum((0, 1), dtype=torch.float64)
        count += y.shape[0] * y.shape[1]
    return linears, (total / max(count, 1)).float()  # no token may have come to an expert


METHOD = Repair("bias_correction", _describe, layer=_correct, declared={"only_existing": Option(False)})
