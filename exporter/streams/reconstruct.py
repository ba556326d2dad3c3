"""Layer after layer, something is learned so that a layer of what ships gives what the float layer gives.

A layer's input comes from the layers before it as they ship, so that it makes up for them too (Nagel et al. 2020,
section 3.4, "asymmetric reconstruction"). What is learned there is then kept, and the next layer sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgepress.exporter.arrays.parallel import all_cores, each
from edgepress.exporter.interpreter.network import Network
from edgepress.exporter.interpreter.walk import Walk
from edgepress.exporter.streams.learned import BETAS
from edgepress.exporter.streams.shipping import BlockWeight, ChannelWeight, LayerOf, Range, Shipped
from edgepress.exporter.streams.shipping_task import ShippingTask


@dataclass(frozen=True)
class Learning:
    """What is learned of one layer: the numbers with their rates, and the ``learners`` that they belong to.

    ``harden()`` turns what was learned into what ships, before it is looked at; ``penalty(step)`` is added to the
    loss, if there is one. ``solve(inputs, missing)`` takes the place of steps: it finds what is learned by what goes
    into the node and what its output lacks, of each feed.
    """

    trained: Mapping[Tensor, float]
    learners: Sequence[ChannelWeight | BlockWeight | Range]
    harden: Callable[[], None] = lambda: None
    penalty: Callable[[int], Tensor | None] = lambda _: None
    solve: Callable[[Sequence[Tensor], Sequence[Tensor]], None] | None = None


def float_name(network: Network, layer: LayerOf) -> str:
    """The value of the float network that a layer's ``output`` stands for.

    A Relu may have disappeared into integers: then it is what that gives, and the integers cut off what it does.
    """
    made = {name for step in network.steps for name in step.outputs}
    return layer.output if layer.output in made else layer.output.removesuffix(".float")


def reconstruct(
    task: ShippingTask,
    begin: Callable[[LayerOf], Learning | None],
    *,
    method: str,
    steps: int,
    batch: int,
    label: str = "",
) -> None:
    """Learn layer by layer, and note how much that brought: the error is a share of the float output's power.

    ``begin`` opens what a layer learns, or says None where it has nothing to. Where the error did not fall, the layer
    stays as it was. ``label`` is what the bar says, else the ``method``.
    """
    shipped, network, feeds, seed = task.shipped, task.network, task.feeds, task.seed
    ships, floats = Walk(shipped.network, feeds, lambda: shipped), Walk(network, feeds)
    ratios: list[float] = []
    learned = 0
    layers = shipped.layers()
    with all_cores(), task.progress(len(layers), label or method, " layers") as advance:
        for index, layer in enumerate(layers):
            wanted = floats.until(float_name(network, layer))
            inputs = ships.before(layer.step)
            before = _error(shipped, layer, inputs, wanted)
            learning = begin(layer)
            if learning is not None and learning.solve is not None:
                with torch.no_grad():
                    lacking = [y - _output(shipped, layer, x) for x, y in zip(inputs, wanted, strict=True)]
                    learning.solve([x[layer.step.inputs[0]] for x in inputs], lacking)
            elif learning is not None:
                power = before * float(torch.stack([y.square().mean() for y in wanted]).mean())
                _learn(
                    shipped, layer, inputs, wanted, learning, unit=power, steps=steps, batch=batch, seed=(seed, index)
                )
            if learning is not None:
                learning.harden()
                after = _error(shipped, layer, inputs, wanted)
                for one in learning.learners:
                    one.keep() if after < before else one.undo()
                learned += 1
                ratios += [min(before, after) / before] if before > 0 else []
            advance(1)
    if not learned:
        task.notes.append(f"{method}: no layer has anything to learn")
        return
    middle = sorted(ratios)[len(ratios) // 2] if ratios else 1.0
    task.notes.append(f"{method}: {learned} layers; the error of the middle one became {middle:.2f} of what it was")


def _learn(
    shipped: Shipped,
    layer: LayerOf,
    inputs: Sequence[Mapping[str, Tensor]],
    wanted: Sequence[Tensor],
    learning: Learning,
    *,
    unit: float,
    steps: int,
    batch: int,
    seed: tuple[int, int],
) -> None:
    """The loss is in units of the mean squared error at the start, ``unit``."""
    optimizer = torch.optim.Adam([{"params": [v], "lr": rate} for v, rate in learning.trained.items()], betas=BETAS)
    random, trained, count = np.random.default_rng(seed), list(learning.trained), min(batch, len(inputs))

    def gradients(one: int) -> tuple[Tensor, ...]:
        error = (_output(shipped, layer, inputs[one]) - wanted[one]).square().mean()
        return torch.autograd.grad(error / (max(unit, 1e-20) * count), trained, allow_unused=True)

    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, learning.trained.values(), strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        chosen = random.choice(len(inputs), count, replace=False)
        with torch.enable_grad():
            parts = each(gradients, [int(one) for one in chosen], shipped.network.device)
            if isinstance(penalty := learning.penalty(step), Tensor):
                parts.append(torch.autograd.grad(penalty, trained, allow_unused=True))
        for value, found in zip(trained, zip(*parts, strict=True), strict=True):
            there = [gradient for gradient in found if gradient is not None]
            value.grad = torch.stack(there).sum(0) if there else None
        optimizer.step()
        for learner in learning.learners:
            learner.settle()


def _output(shipped: Shipped, layer: LayerOf, inputs: Mapping[str, Tensor]) -> Tensor:
    return shipped.network.run(inputs, [layer.shown], constants=shipped)[layer.shown]


def _error(shipped: Shipped, layer: LayerOf, inputs: Sequence[Mapping[str, Tensor]], wanted: Sequence[Tensor]) -> float:
    with torch.no_grad():
        pairs = list(zip(inputs, wanted, strict=True))
        noise = sum(
            each(
                lambda pair: float((_output(shipped, layer, pair[0]) - pair[1]).square().sum()),
                pairs,
                shipped.network.device,
            )
        )
        power = sum(float(y.square().sum()) for y in wanted)
    return noise / max(power, 1e-30)
