"""What each way to store each weight of a graph costs: how far it alone moves the outputs from the float model's.

A weight is rounded as the export will round it, by the recipe's method and what goes into its products; everything else
stays in float, and the graph is computed from the first node on that reads it, on samples that rounding has not seen.
Prices are then added up, as if weights did not interact (:mod:`edgepress.exporter.learn.budget.schemes`).

Beside the loss each weight has a price in time, whatever it is stored as: the multiply-adds of the nodes that read it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.parallel import each
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.interpreter.network import Feed, Network, Step, Tensors, arrays
from edgepress.exporter.interpreter.products import rows_read
from edgepress.exporter.interpreter.walk import Walk
from edgepress.exporter.learn.budget.sensitivity import TensorGroup, find_candidates
from edgepress.exporter.learn.graphs.blocks import by_itself, rows_of
from edgepress.exporter.learn.graphs.loss import Arrays, Distance
from edgepress.exporter.methods.kinds import LinearMethod, method_options, start_method
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.subject import Description
from edgepress.exporter.plan.schemes import is_kept
from edgepress.exporter.recipe.recipe import Budget, Recipe
from edgepress.exporter.streams.shipping import BlockWeight
from edgepress.exporter.streams.shipping_task import Coded
from edgepress.terminal.progress import Progress


def graph_groups(subject: Description, recipe: Recipe, budget: Budget) -> list[TensorGroup]:
    """The weights that the budget decides, each a group: those not always kept in float, that no override names."""
    return [
        TensorGroup(weight.name, (weight,), 0, find_candidates([weight], recipe, budget))
        for weight in subject.weights()
        if not is_kept(weight) and recipe.override(weight.name) is None
    ]


class Rounder:
    """Rounds one weight of the float graph, as a kernel has its rows, by what goes into its products."""

    def __init__(self, network: Network, recipe: Recipe) -> None:
        self._network, self._recipe = network, recipe

    def looks(self, schemes: Sequence[Scheme | None]) -> bool:
        """Whether any of these is rounded by what goes into the products."""
        methods = [start_method(one.method, self._recipe) for one in schemes if one is not None]
        return any(isinstance(method, LinearMethod) for method in methods)

    def round(self, weight: Weight, scheme: Scheme | None, moments: Moments | None) -> Tensor:
        """The weight as the graph stores it, rounded and dequantized; as it is where ``scheme`` is None.

        Without ``moments``, as nothing but products has them, a method that needs some is replaced by rtn.
        """
        value = self._network.constants[weight.name]
        if scheme is None:
            return value
        transposed, method = weight.parts[0].transposed, start_method(scheme.method, self._recipe)
        rows = rows_of(value, Coded(scheme, transposed, weight.shape[0]))
        if isinstance(method, LinearMethod) and moments is not None:
            codes = method.quantize(rows, scheme, moments, method_options(method, self._recipe))
        else:
            codes = by_itself(method.name, rows, scheme, method_options(method, self._recipe))
        return BlockWeight(weight.name, rows, codes, value.shape, transposed=transposed).value()


@dataclass(frozen=True)
class WeightPrices:
    """``loss`` of each candidate of each group, and the ``multiply_adds`` of one sample by group."""

    loss: tuple[tuple[float, ...], ...]
    multiply_adds: Mapping[str, int]


def measure_prices(
    network: Network,
    groups: Sequence[TensorGroup],
    rounder: Rounder,
    distance: Distance,
    *,
    seen: Sequence[Feed],
    scored: Sequence[Feed],
    truth: Sequence[Arrays],
    progress: Progress,
) -> WeightPrices:
    """Measure every candidate; ``truth`` are the float model's outputs for the feeds that are ``scored``."""
    floats, looked = Walk(network, scored), Walk(network, seen)
    places = first_readers(floats, [group.weights[0].name for group in groups])
    at: dict[int, list[TensorGroup]] = defaultdict(list)
    for group in groups:
        at[places.get(group.name, -1)].append(group)
    steps, loss, work = floats.ahead, dict[str, tuple[float, ...]](), dict[str, int]()
    total = sum(len(group.candidates) for group in groups)
    with progress(total, "measuring the loss by weight", " candidates") as advance:
        for place, here in sorted(at.items()):
            if place < 0:  # nothing that depends on the inputs reads them
                loss |= {group.name: (0.0,) * len(group.candidates) for group in here}
                advance(sum(len(group.candidates) for group in here))
                continue
            step = steps[place]
            alive, inputs = floats.alive(step), None
            for group in here:
                (weight,), schemes = group.weights, [candidate.schemes[0] for candidate in group.candidates]
                if rounder.looks(schemes) and inputs is None:
                    inputs = [given.get(step.inputs[0]) for given in looked.before(step)]
                moments = None if inputs is None else _moments(step, inputs, weight, network.constants[weight.name])
                work[group.name] = multiply_adds(network, step, weight, alive[0])
                found = []
                for scheme in schemes:
                    changed = {weight.name: rounder.round(weight, scheme, moments)}
                    outputs = compute_from(network, alive, distance.outputs, changed)
                    found.append(distance(outputs, truth) if scheme is not None else 0.0)
                    advance(1)
                loss[group.name] = tuple(found)
    return WeightPrices(tuple(loss[group.name] for group in groups), work)


def first_readers(walk: Walk, names: Sequence[str]) -> dict[str, int]:
    """Which step of the walk first reads each constant, or what is made of it and of other constants."""
    steps = walk.ahead
    varying = {name for step in steps for name in step.outputs}
    makers = [step for step in walk.network.between(walk.network.inputs, walk.network.outputs) if step not in steps]
    found = {}
    for name in names:
        made = {name}
        for step in makers:
            if made & {*step.inputs, *step.reads}:
                made.update(step.outputs)
        made -= varying
        place = next((index for index, step in enumerate(steps) if made & {*step.inputs, *step.reads}), None)
        if place is not None:
            found[name] = place
    return found


def compute_from(
    network: Network, alive: Sequence[Tensors], outputs: Sequence[str], constants: Tensors
) -> list[Arrays]:
    """The outputs of each feed from the values that are ``alive``, with other ``constants``."""

    def one(values: Tensors) -> Arrays:
        return arrays(network.run(values, outputs, constants=constants))

    with torch.no_grad():
        return each(one, alive, network.device)


def _moments(step: Step, inputs: Sequence[Tensor | None], weight: Weight, full: Tensor) -> Moments | None:
    """Moments of what a node multiplies a weight's rows by; None where it multiplies none by anything that is given."""
    moments = Moments(weight.shape[1])
    for value in inputs:
        rows = None if value is None else rows_read(step, value, full)
        if rows is not None:
            moments.add(rows)
    return moments if moments.count else None


def multiply_adds(network: Network, step: Step, weight: Weight, alive: Tensors) -> int:
    """Multiply-adds of one node with a weight for one feed; 0 of what looks rows up."""
    value = network.constants[weight.name]
    if step.key == "Conv":
        with torch.no_grad():
            made = network.run(alive, [step.outputs[0]])[step.outputs[0]]
        return made.numel() * prod(value.shape[1:])
    given = alive.get(step.inputs[0])
    if given is None or step.key == "Gather":
        return 0
    if step.key == "ConvTranspose":
        return given.numel() * prod(value.shape[1:])
    if step.key in ("LSTM", "GRU", "RNN"):
        return prod(given.shape[:2]) * value.numel()
    if value.dim() != 2 or not given.dim():  # a number that chooses the branch which has the weight
        return 0
    return given.numel() // max(1, given.shape[-1]) * value.numel()
