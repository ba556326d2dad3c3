"""Learned ranges: the scales of weights and activations, by the output of each layer (LSQ, Esser et al. 2020).

"Learned Step Size Quantization", equations 1 to 3: gradients reach a scale through rounding that lets them pass, and
move it by how far values inside the range were rounded and by where values outside were cut off. Here each layer learns
by itself, by the squared error of its output past its integers, its input coming from the layers before as they ship:
the scales of its weight, and that of its output where nothing fixes it (a graph's inputs, Softmax, Sigmoid and Tanh
have theirs). Zero points stay, so a range shrinks and grows on both sides. Values that move through a graph
unchanged have one scale, learned where the first of them is made.
"""

from __future__ import annotations

from torch import Tensor

from edgepress.exporter.methods.kinds import GraphMethod
from edgepress.exporter.methods.options import Option, Options, whole_number
from edgepress.exporter.streams.reconstruct import Learning, reconstruct
from edgepress.exporter.streams.shipping import ChannelWeight, LayerOf, Range
from edgepress.exporter.streams.shipping_task import ShippingTask


def _run(task: ShippingTask, options: Options) -> None:
    of_output = {name: one for one in task.shipped.ranges for name in one.names}
    rate, seen = float(options["rate"]), set[int]()

    def begin(layer: LayerOf) -> Learning | None:
        if not isinstance(layer.weight, ChannelWeight):
            return None
        opened: list[ChannelWeight | Range] = [layer.weight]
        trained: dict[Tensor, float] = {layer.weight.open()["factor"]: float(options["weight_rate"])}
        found = of_output.get(layer.output.removesuffix(".float"))
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            opened.append(found)
            trained[found.open()] = rate
        return Learning(trained, opened)

    reconstruct(
        task,
        begin,
        method=METHOD.name,
        steps=int(options["steps"]),
        batch=int(options["batch"]),
        label="learning ranges",
    )


METHOD = GraphMethod(
    name="learned_ranges",
    place="after",
    run=_run,
    forms=frozenset({"channels"}),
    declared={
        "steps": whole_number(100),
        "batch": whole_number(4),
        "rate": Option(0.005, above=0, most=100),
        "weight_rate": Option(0.001, above=0, most=100),
    },
)
