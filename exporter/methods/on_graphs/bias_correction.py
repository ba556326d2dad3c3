"""Bias correction: what rounding adds to the mean of each output channel is taken off its bias.

Nagel et al. 2019, section 4.2: E[ỹ] − E[y] = ε E[x] with ε = W̃ − W. Two ways:

- ``by = "outputs"`` (their appendix D, empirical): layer after layer, the mean of what ships minus the mean of the
  float layer, the input being that of the corrected layers before it. Before a Relu a mean may be one of values that
  are cut off: where the layer's output past its integers is no nearer then, its bias stays;
- ``by = "inputs"`` (their equation 17; they have E[x] from batch norms, here it is measured): ε E[x] of the float
  model's inputs, in which what rounding did to the inputs is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgepress.exporter.arrays.parallel import each
from edgepress.exporter.interpreter.walk import Walk
from edgepress.exporter.methods.kinds import GraphMethod
from edgepress.exporter.methods.options import Option, Options
from edgepress.exporter.streams.reconstruct import float_name
from edgepress.exporter.streams.shipping import Bias, LayerOf, Shipped
from edgepress.exporter.streams.shipping_task import ShippingTask


def channel_mean(values: list[Tensor], axis: int) -> Tensor:
    """The mean of each channel over feeds and all other axes, (channels,)."""
    sums = [value.movedim(axis, -1).reshape(-1, value.shape[axis]).double() for value in values]
    return (sum(rows.sum(0) for rows in sums) / sum(len(rows) for rows in sums)).float()  # type: ignore[union-attr]


def _run(task: ShippingTask, options: Options) -> None:
    shipped, network = task.shipped, task.network
    layers = shipped.layers()
    by_name = {step.name: step for step in network.steps}
    ships, floats = Walk(shipped.network, task.feeds, lambda: shipped), Walk(network, task.feeds)
    without = stayed = 0
    with task.progress(len(layers), "correcting biases", " layers") as advance:
        for layer in layers:
            step = by_name.get(layer.step.name)
            if layer.bias is None or step is None:
                without += 1
            elif options["by"] == "outputs":
                axis = 1 if step.key.startswith("Conv") else -1
                wanted = floats.until(step.outputs[0])
                inputs, shown = ships.before(layer.step), floats.until(float_name(network, layer))
                found, error = _compute(shipped, layer, inputs, shown)
                before = layer.bias.latent
                _add(layer.bias, channel_mean(wanted, axis) - channel_mean(found, axis))
                if _compute(shipped, layer, inputs, shown)[1] >= error:
                    layer.bias.latent, stayed = before, stayed + 1
            else:
                given = [values[step.inputs[0]] for values in floats.before(step)]
                _add(layer.bias, -_expected(layer, network.constants[layer.weight.name], given))
            advance(1)
    task.notes.append(
        f"bias_correction: of {len(layers)} layers {without} have no bias, and {stayed} stay as they were because a "
        "corrected mean brought their outputs no nearer"
    )


def _compute(
    shipped: Shipped, layer: LayerOf, inputs: Sequence[Mapping[str, Tensor]], shown: Sequence[Tensor]
) -> tuple[list[Tensor], float]:
    """What the layer makes of each feed, and the squared error of that past its integers."""

    def one(pair: tuple[Mapping[str, Tensor], Tensor]) -> tuple[Tensor, float]:
        made = shipped.network.run(pair[0], [layer.output, layer.shown], constants=shipped)
        return made[layer.output], float((made[layer.shown] - pair[1]).square().sum())

    with torch.no_grad():
        found = each(one, list(zip(inputs, shown, strict=True)), shipped.network.device)
    return [output for output, _ in found], sum(error for _, error in found)


def _add(bias: Bias, correction: Tensor) -> None:
    bias.latent = (bias.latent + correction.reshape(bias.latent.shape)).detach()


def _expected(layer: LayerOf, full: Tensor, inputs: list[Tensor]) -> Tensor:
    """(W̃ − W) E[x], (outputs,); what a convolution's padding adds is not seen."""
    with torch.no_grad():
        change = layer.weight.value() - full
    key, attributes = layer.step.key, layer.step.attributes
    mean = channel_mean(inputs, 1 if key.startswith("Conv") else -1)
    if key == "Conv":
        group, each = attributes.get("group", 1), change.shape[1]
        rows = change.flatten(2).sum(2).reshape(group, -1, each)  # (groups, outputs, inputs)
        return (rows * mean.reshape(group, 1, each)).sum(2).reshape(-1)
    return change @ mean if attributes.get("transB", 0) else mean @ change


METHOD = GraphMethod(
    name="bias_correction",
    place="after",
    run=_run,
    declared={"by": Option("outputs", choices=("outputs", "inputs"))},
)
