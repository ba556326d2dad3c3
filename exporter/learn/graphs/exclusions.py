"""Which nodes of a graph in integers stay in float so that a budget in loss is met, and what that takes of its time.

What is rounded is a value, with all that it is moved to, or a weight. The price of each is how far it alone, rounded as
the graph in integers rounds it, moves the outputs. A weight is free of it when the nodes that multiply by it compute in
float, a value when the nodes that make it and all that read it do: so nodes are chosen one rounded thing after the
other, that first which saves the most for the multiply-adds that come to be computed in float, and counting what nodes
that are in float already share. Of that order the shortest beginning that meets the budget is taken, found by halving,
each tried as it ships: by onnxruntime, in integers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import onnx
import torch
from torch import Tensor

from edgepress.exporter.arrays.parallel import each
from edgepress.exporter.graph.qdq.codes import along
from edgepress.exporter.graph.qdq.floats import name_of, reads_as_weight
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.graph.qdq.roles import MOVES, channel_axis
from edgepress.exporter.interpreter.network import Feed, Hooks, Network, Tensors, arrays
from edgepress.exporter.interpreter.walk import Walk
from edgepress.exporter.learn.graphs.loss import Arrays, Distance
from edgepress.exporter.learn.graphs.prices import compute_from, first_readers
from edgepress.terminal.progress import Progress

PRICED_ON = 16
"""Samples that prices are measured on at most: each is computed once for everything that is rounded."""


@dataclass(frozen=True)
class Rounded:
    """Something that the graph in integers rounds: what it is called, and the nodes that are in float without that."""

    name: str
    nodes: frozenset[str]
    values: tuple[str, ...] = ()
    apply: Callable[[Tensor], Tensor] = lambda value: value


def find_rounded(model: FloatModel, integers: onnx.ModelProto) -> list[Rounded]:
    """Everything that ``integers``, written of ``model``, rounds: values by what has one scale, and weights."""
    constants = {tensor.name: tensor for tensor in integers.graph.initializer}
    groups: dict[str, list[str]] = defaultdict(list)
    for node in integers.graph.node:
        if node.op_type == "QuantizeLinear":
            value = node.input[1].removesuffix(".scale")
            groups[model.ties.of(value)].append(value)
    found = [_value(model, values, constants) for values in groups.values()]
    weights: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.nodes:
        for name in dict.fromkeys(node.input):
            if f"{name}.weight{channel_axis(node)}.integers" in constants and reads_as_weight(model, node, {name}):
                weights[name].append(node)
    return found + [_weight(name, nodes, constants) for name, nodes in weights.items()]


def _value(model: FloatModel, values: Sequence[str], constants: Mapping[str, onnx.TensorProto]) -> Rounded:
    scale, zero = (_number(constants[f"{values[0]}.{part}"]) for part in ("scale", "zero_point"))
    top = 2 ** (16 if constants[f"{values[0]}.zero_point"].data_type == onnx.TensorProto.UINT16 else 8) - 1

    def apply(value: Tensor) -> Tensor:
        return ((value / scale).round().add(zero).clamp(0, top) - zero) * scale

    tied = [name for name in model.activations() if model.ties.of(name) == model.ties.of(values[0])]
    nodes = [model.makers[name] for name in tied if name in model.makers]
    nodes += [node for name in tied for node in model.readers.get(name, ())]
    return Rounded(values[0], frozenset(name_of(n) for n in nodes if n.op_type not in MOVES), tuple(tied), apply)


def _weight(name: str, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]) -> Rounded:
    axis = channel_axis(nodes[0])
    codes, scale = (
        onnx.numpy_helper.to_array(constants[f"{name}.weight{axis}.{part}"]).astype(np.float32)
        for part in ("integers", "scale")
    )
    stored = torch.from_numpy(codes * along(np.asarray(scale), axis, codes.ndim))
    return Rounded(name, frozenset(map(name_of, nodes)), apply=lambda _: stored)


def _number(tensor: onnx.TensorProto) -> float:
    return float(onnx.numpy_helper.to_array(tensor))


def measure_rounded(
    network: Network,
    rounded: Sequence[Rounded],
    distance: Distance,
    feeds: Sequence[Feed],
    truth: Sequence[Arrays],
    *,
    progress: Progress,
) -> dict[str, float]:
    """How far each thing that is rounded moves the outputs by itself, by its name."""
    walk, found = Walk(network, feeds), dict[str, float]()
    weights = first_readers(walk, [one.name for one in rounded if not one.values])
    places = {one.name: _first(walk, one, weights) for one in rounded}
    steps = walk.ahead
    with progress(len(rounded), "measuring the loss by node", " values and weights") as advance:
        for one in sorted(rounded, key=lambda one: places[one.name]):
            place = places[one.name]
            if place == len(steps):  # nothing reads it
                outputs: list[Arrays] = [
                    {k: one.apply(torch.from_numpy(v.copy())).numpy() if k in one.values else v for k, v in t.items()}
                    for t in truth
                ]
            elif one.values:
                outputs = _with_values(network, walk.alive(steps[place]), distance.outputs, one)
            else:
                changed = {one.name: one.apply(network.constants[one.name])}
                outputs = compute_from(network, walk.alive(steps[place]), distance.outputs, changed)
            found[one.name] = distance(outputs, truth)
            advance(1)
    return found


def _first(walk: Walk, one: Rounded, weights: Mapping[str, int]) -> int:
    """The first step that reads what is rounded; one past the last where none does."""
    steps = walk.ahead
    if not one.values:
        return weights.get(one.name, len(steps))
    names = set(one.values)
    return next((i for i, step in enumerate(steps) if names & {*step.inputs, *step.reads}), len(steps))


def _with_values(network: Network, alive: Sequence[Tensors], outputs: Sequence[str], one: Rounded) -> list[Arrays]:
    """The outputs of each feed from the values that are ``alive``, those that are rounded rounded."""
    names = frozenset(one.values)
    hooks = Hooks(made=lambda name, value: one.apply(value) if name in names else value)

    def compute(values: Tensors) -> Arrays:
        return arrays(network.run(values, outputs, hooks=hooks))

    with torch.no_grad():
        return each(compute, alive, network.device)


def node_work(model: FloatModel, network: Network, feed: Feed) -> dict[str, int]:
    """Multiply-adds of each node for one feed; of what multiplies nothing, the numbers that it makes."""
    shapes: dict[str, tuple[int, ...]] = {name: tuple(value.shape) for name, value in network.constants.items()}

    def made(name: str, value: Tensor) -> Tensor:
        shapes[name] = tuple(value.shape)
        return value

    with torch.no_grad():
        network.run(network.tensors(feed), hooks=Hooks(made=made))
    return {name_of(node): _work(node, shapes) for node in model.nodes if node.op_type not in MOVES}


def _work(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    output = prod(shapes.get(node.output[0], ()))
    second = shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
    if node.op_type == "Conv":
        return output * prod(second[1:])
    if node.op_type == "ConvTranspose":
        return prod(shapes[node.input[0]]) * prod(second[1:])
    if node.op_type in ("Gemm", "MatMul"):
        return output * (shapes[node.input[0]] or (1,))[-1]
    return output


def order(rounded: Sequence[Rounded], loss: Mapping[str, float], work: Mapping[str, int]) -> list[Rounded]:
    """In which order things are left unrounded: the most loss saved for the work that comes to be in float, first."""
    floats, chosen, left = frozenset[str](), list[Rounded](), list(rounded)
    while left:
        best = max(left, key=partial(_gain, floats=floats, left=left, loss=loss, work=work))
        floats |= best.nodes
        chosen.append(best)
        left = [other for other in left if not other.nodes <= floats]
    return chosen


def _gain(
    one: Rounded, *, floats: frozenset[str], left: Sequence[Rounded], loss: Mapping[str, float], work: Mapping[str, int]
) -> float:
    """The loss that is saved beside ``floats``, for each multiply-add that comes to be in float."""
    with_it = floats | one.nodes
    saved = sum(loss[other.name] for other in left if other.nodes <= with_it)
    return saved / max(1, sum(work.get(name, 0) for name in one.nodes - floats))


def shortest(count: int, is_met: Callable[[int], bool]) -> int:
    """The least length of a beginning that meets a budget, by halving: longer ones are taken to lose less."""
    low, high = 0, count
    if is_met(0):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_met(middle) else (middle, high)
    return high


def nodes_of(chosen: Collection[Rounded]) -> frozenset[str]:
    """The nodes in float of what is not rounded."""
    return frozenset(name for one in chosen for name in one.nodes)
