"""AutoRound of a graph's products: codes and scales learned by the output of each (Cheng et al. 2023).

See :mod:`~edgepress.exporter.methods.round.autoround`, whose parameters and gradients these are. A decoder learns by
the outputs of its layers; a graph has products, each of which learns by its own, its input coming from those
before it as they ship.
"""

from __future__ import annotations

from edgepress.exporter.methods.kinds import GraphMethod
from edgepress.exporter.methods.options import Option, Options, whole_number
from edgepress.exporter.streams.reconstruct import Learning, reconstruct
from edgepress.exporter.streams.shipping import BlockWeight, LayerOf
from edgepress.exporter.streams.shipping_task import ShippingTask


def _run(task: ShippingTask, options: Options) -> None:
    rate, rounding = float(options["rate"]), float(options["rounding_rate"])
    count = sum(weight.full.numel() for layer in task.shipped.layers() if (weight := _learns(layer)) is not None)
    if (most := int(options["most_weights"])) and count > most:
        task.notes.append(
            f"{METHOD.name}: it would train {count:,} weights, and most_weights is {most:,}; they stay as "
            f"{options['start']} rounded them"
        )
        return

    def begin(layer: LayerOf) -> Learning | None:
        weight = _learns(layer)
        if weight is None:
            return None
        rates = {"factors": rate, "positions": rounding}
        trained = {value: rates[part] for part, value in weight.open().items()}
        return Learning(trained, [weight])

    reconstruct(task, begin, method=METHOD.name, steps=int(options["steps"]), batch=int(options["batch"]))


def _learns(layer: LayerOf) -> BlockWeight | None:
    """The weight of a layer that the recipe gives to this method; None where there is none."""
    weight = layer.weight
    if not isinstance(weight, BlockWeight) or weight.learned.start.scheme.method != METHOD.name:
        return None
    return weight


METHOD = GraphMethod(
    name="autoround",
    place="weights",
    run=_run,
    forms=frozenset({"blocks"}),
    declared={
        "most_weights": whole_number(0, 0, 1 << 53),
        "start": Option("gptq"),
        "steps": whole_number(100),
        "batch": whole_number(4),
        "rate": Option(0.01, above=0, most=100),
        "rounding_rate": Option(0.01, above=0, most=100),
    },
)
