"""AutoRound of a graph: codes and scales learned by the output of each node that reads a weight (Cheng et al. 2023).

A decoder learns by the outputs of its layers; a graph has products, each of which learns by its own, its input coming
from those before it as they ship. The error of a product is a parabola of its weight, so its codes and scales are found
one at a time, each where the error is least (:mod:`~edgepress.exporter.arrays.descent`), in ``sweeps``. Gradient steps,
which take codes away from where ``start`` (GPTQ) put them before they know better, bring less
(``benchmarks/rounding_cnn.py``). What
else reads a weight (convolutions in groups, recurrent layers, lookups), and everything with ``sweeps = 0``, learns in
``steps``, by the parameters and gradients of :mod:`~edgepress.exporter.methods.round.autoround`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from edgepress.exporter.arrays.descent import damping_of, descend
from edgepress.exporter.interpreter.network import Step
from edgepress.exporter.interpreter.products import rows_read
from edgepress.exporter.methods.kinds import GraphMethod
from edgepress.exporter.methods.options import Option, Options, whole_number
from edgepress.exporter.streams.reconstruct import Learning, reconstruct
from edgepress.exporter.streams.shipping import BlockWeight, LayerOf
from edgepress.exporter.streams.shipping_task import ShippingTask


def _run(task: ShippingTask, options: Options) -> None:
    rate, rounding = float(options["rate"]), float(options["rounding_rate"])
    sweeps = int(options["sweeps"])
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
        constant = task.network.constants[weight.name]
        if sweeps and _is_product(layer.step, constant):
            return Learning({}, [weight], solve=partial(_solve, layer.step, weight, sweeps))
        rates = {"factors": rate, "positions": rounding}
        trained = {value: rates[part] for part, value in weight.open().items()}
        return Learning(trained, [weight])

    reconstruct(task, begin, method=METHOD.name, steps=int(options["steps"]), batch=int(options["batch"]))


def _is_product(step: Step, constant: Tensor) -> bool:
    """Whether a node's output is a weight times what it reads first, and nothing else of that."""
    if step.key == "Conv":
        return step.call.get("group", 1) == 1 and 3 <= constant.dim() <= 4
    is_read = rows_read(step, constant, constant) is not None
    return is_read and constant.dim() == 2 and float(step.attributes.get("alpha", 1.0)) == 1.0


def _solve(step: Step, weight: BlockWeight, sweeps: int, inputs: Sequence[Tensor], lacking: Sequence[Tensor]) -> None:
    """Find the codes and scales of a product, by what it reads and what its output lacks, of each feed."""
    count, columns = weight.full.shape
    second, missing = torch.zeros(columns, columns), torch.zeros(count, columns)
    fourth, seen = 0.0, 0
    for x, r in zip(inputs, lacking, strict=True):
        rows = rows_read(step, x, weight.value())
        assert rows is not None  # a product
        rows = rows.reshape(-1, columns)
        second += rows.T @ rows
        fourth, seen = fourth + float(rows.double().square().sum(1).square().sum()), seen + len(rows)
        missing += (r.movedim(1, -1) if step.key == "Conv" else r).reshape(-1, count).T @ rows
    damping = damping_of(second, fourth, seen)
    weight.found(descend(weight.learned.start, weight.full, second, missing, sweeps=sweeps, damping=damping))


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
        "sweeps": whole_number(8, 0, 1000),
    },
)
