"""The float graph with its weights in blocks of codes: rounded one after the other, by what goes into each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.interpreter.products import rows_read
from edgepress.exporter.interpreter.walk import Walk
from edgepress.exporter.methods.kinds import LinearMethod, Method, load_method
from edgepress.exporter.methods.nearest_plane import start_codes
from edgepress.exporter.methods.options import Options
from edgepress.exporter.methods.sparsity import keep_largest, read_sparsity
from edgepress.exporter.streams.shipping import Bias, BlockWeight, ChannelWeight, Shipped
from edgepress.exporter.streams.shipping_task import Coded, ShippingTask

_BIASED = ("Conv", "ConvTranspose", "Gemm")  # whose third input is a bias: that of a recurrent layer is a weight, too


def rows_of(value: Tensor, coded: Coded) -> Tensor:
    """A weight of the graph as its kernel has it, (rows, columns)."""
    return (value.T if coded.transposed else value.reshape(coded.rows or value.shape[0], -1)).contiguous()


def ship_blocks(task: ShippingTask, rounding: Mapping[str, str], options: Mapping[str, Options]) -> Shipped:
    """Round the weights of ``task.coded``, each by the method that ``rounding`` names for it."""
    weights: dict[str, ChannelWeight | BlockWeight] = {}
    for name, coded in task.coded.items():
        value = task.network.constants[name]
        rows = rows_of(value, coded)
        start = by_itself(rounding[name], rows, coded.scheme, options[rounding[name]])
        weights[name] = BlockWeight(name, rows, start, value.shape, transposed=coded.transposed)
    shipped = Shipped("blocks", task.network, weights, _biases(task, set(weights)))
    if any(isinstance(load_method(method), LinearMethod) for method in rounding.values()):
        _by_inputs(task, shipped, rounding, options)
    return shipped


def by_itself(name: str, rows: Tensor, scheme: Scheme, options: Options) -> Codes:
    """Rounded by a method of rows; to nearest by one that looks at inputs, the smallest 0 where it makes zeros."""
    method = load_method(name)
    if isinstance(method, Method):
        return Codes.unpack(method.quantize(rows.numpy(), scheme, None), scheme, rows.shape[1])
    if isinstance(method, LinearMethod) and method.zeros(options):
        rows = rows * keep_largest(rows, read_sparsity(name, options))
    return start_codes(rows, scheme, Moments(rows.shape[1]))


def _by_inputs(
    task: ShippingTask, shipped: Shipped, rounding: Mapping[str, str], options: Mapping[str, Options]
) -> None:
    """Each product after those before it, by the moments of what these give it.

    What else reads a weight (a convolution in groups, a recurrent layer, a lookup) leaves it rounded by itself.
    """
    walk = Walk(shipped.network, task.feeds, lambda: shipped)
    layers, done = shipped.layers(), set[str]()
    with task.progress(len(layers), "rounding", " layers") as advance:
        for layer in layers:
            weight, method = layer.weight, load_method(rounding[layer.weight.name])
            is_done = weight.name in done
            if not is_done and isinstance(weight, BlockWeight) and isinstance(method, LinearMethod):
                full, moments = task.network.constants[weight.name], Moments(weight.full.shape[1])
                for inputs in walk.before(layer.step):
                    rows = rows_read(layer.step, inputs[layer.step.inputs[0]], full)
                    if rows is not None:
                        moments.add(rows)
                if moments.count:
                    done.add(weight.name)
                    scheme = task.coded[weight.name].scheme
                    with torch.no_grad():
                        weight.put(method.quantize(weight.full, scheme, moments, options[method.name]))
            advance(1)


def _biases(task: ShippingTask, weights: set[str]) -> dict[str, Bias]:
    """The biases of Gemm and Conv, which stay in float."""
    network = task.network
    found = {}
    for step in network.between(network.inputs, network.outputs):
        if step.key not in _BIASED or len(step.inputs) < 3:
            continue
        if step.inputs[1] in weights and step.inputs[2] in network.constants:
            found[step.inputs[2]] = Bias(step.inputs[2], network.constants[step.inputs[2]])
    return found
