"""Cross-layer equalization (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization …").

Of two layers with a positively homogeneous function between (f(s x) = s f(x) for s > 0: none, Relu, LeakyRelu),
channel i of the first may be divided by s_i and the second's inputs multiplied by it (section 4.1). With r the largest
magnitudes of a channel's weights in both, s_i = √(r1_i / r2_i) makes both √(r1_i r2_i) (equation 11): channels of very
different sizes, which one scale a tensor breaks, become alike. Pairs are taken in turn until no s_i is far from 1, so
that what is done reaches along a chain through depthwise convolutions, whose one input channel is their output channel.

A cap is not homogeneous: min(max(x, 0), 6) of k x is k times that of x only where nothing reaches the cap, before or
after. By default (``relu6 = "within"``) channels that reach it on the calibration data stay as they are, and the others
are multiplied at most until they do. As the paper does (section 5.1.1), ``"replace"`` makes Relu of the Clip, which
lets pass what lies beyond 6: where a model was trained to have much there, that breaks it, and the report says by how
much the float outputs change. ``"keep"`` leaves such pairs alone.

For weights with a scale for each output channel the first layer's own scales do not matter to it; what is gained is the
second layer's, and activations whose channels are alike.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.interpreter.network import Network, Step, Tensors
from edgepress.exporter.interpreter.walk import Walk
from edgepress.exporter.methods.kinds import GraphMethod
from edgepress.exporter.methods.options import Option, Options, whole_number
from edgepress.exporter.streams.shipping_task import ShippingTask

_HOMOGENEOUS = ("LeakyRelu", "PRelu", "Relu")
_PASSES = ("Dropout", "Identity")  # and what has one channel stay one
_SPACE = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
_CLOSE = 1e-3  # of 1: a scale that is as near changes nothing
_LEAST = 1e-8
_SAME = 1e-3  # of the outputs' norm: more is no rounding of floats


@dataclass(frozen=True)
class Side:
    """One layer of a pair: its weight with the axis of the channels that are scaled, and what else is scaled."""

    step: Step
    weight: str
    bias: str


@dataclass(frozen=True)
class Pair:
    """Two layers and the nodes between them that cap what passes."""

    first: Side
    second: Side
    caps: tuple[Step, ...]


def by_output(step: Step, weight: Tensor) -> Tensor:
    """The weight with its output channels first, (channels, numbers)."""
    if step.key == "Conv" or (step.key == "Gemm" and step.attributes.get("transB", 0)):
        return weight.flatten(1)
    return weight.T


def by_input(step: Step, weight: Tensor) -> Tensor:
    """The weight with its input channels first, (channels, numbers); of groups, each with its own inputs."""
    if step.key == "Conv":
        group, (outputs, each) = step.attributes.get("group", 1), weight.shape[:2]
        grouped = weight.reshape(group, outputs // group, each, -1)  # (groups, outputs, inputs, kernel)
        return grouped.transpose(1, 2).reshape(group * each, -1)
    return weight.T if step.key == "Gemm" and step.attributes.get("transB", 0) else weight


def scaled_outputs(step: Step, weight: Tensor, scales: Tensor) -> Tensor:
    """Output channels multiplied by ``scales``."""
    if step.key == "Conv" or (step.key == "Gemm" and step.attributes.get("transB", 0)):
        return weight * scales.reshape(-1, *[1] * (weight.dim() - 1))
    return weight * scales


def scaled_inputs(step: Step, weight: Tensor, scales: Tensor) -> Tensor:
    """Input channels multiplied by ``scales``."""
    if step.key == "Conv":
        group, (outputs, each) = step.attributes.get("group", 1), weight.shape[:2]
        rows = scales.reshape(group, 1, each).expand(-1, outputs // group, -1).reshape(outputs, each)
        return weight * rows.reshape(outputs, each, *[1] * (weight.dim() - 2))
    return weight * (scales if step.key == "Gemm" and step.attributes.get("transB", 0) else scales[:, None])


def find_pairs(network: Network, *, through_caps: bool) -> list[Pair]:
    """Pairs of layers with nothing but a homogeneous function between, whose values nothing else reads."""
    steps = network.between(network.inputs, network.outputs)
    readers: dict[str, list[Step]] = defaultdict(list)
    uses: dict[str, int] = defaultdict(int)
    for step in steps:
        for name in dict.fromkeys((*step.inputs, *step.reads)):
            readers[name].append(step)
        for name in step.inputs:
            uses[name] += 1
    found = []
    for step in steps:
        first = _side(network, step, uses)
        value = step.outputs[0]
        caps: list[Step] = []
        is_flat = step.key != "Conv"
        while first is not None and len(readers[value]) == 1 and value not in network.outputs:
            reader = readers[value][0]
            second = _side(network, reader, uses)
            if second is not None and reader.inputs[0] == value:
                if is_flat == (reader.key != "Conv") and _fits(network, first, second):
                    found.append(Pair(first, second, tuple(caps)))
                break
            is_cap = _caps(network, reader) and through_caps
            if not (is_cap or reader.key in (*_HOMOGENEOUS, *_PASSES, *_SPACE) or _flattens(reader)):
                break
            if reader.key == "PRelu" and reader.inputs[0] != value:
                break
            is_flat = is_flat or _flattens(reader)
            if is_cap:
                caps.append(reader)
            value = reader.outputs[0]
    return found


def _side(network: Network, step: Step, uses: dict[str, int]) -> Side | None:
    """A layer whose weight and bias are constants that nothing else reads."""
    if step.key not in ("Conv", "Gemm", "MatMul") or len(step.inputs) < 2:
        return None
    attributes = step.attributes
    if step.key == "Gemm" and (attributes.get("transA", 0), attributes.get("alpha", 1), attributes.get("beta", 1)) != (
        0,
        1,
        1,
    ):
        return None
    weight, bias = step.inputs[1], step.inputs[2] if len(step.inputs) > 2 else ""
    for name in filter(None, (weight, bias)):
        if name not in network.constants or uses[name] != 1:
            return None
    if step.inputs[0] in network.constants or (step.key == "MatMul" and network.constants[weight].dim() != 2):
        return None
    return Side(step, weight, bias)


def _fits(network: Network, first: Side, second: Side) -> bool:
    """Whether the channels of both are the same, one by one: a Flatten that mixes channels with places is not."""
    outputs = len(by_output(first.step, network.constants[first.weight]))
    return outputs == len(by_input(second.step, network.constants[second.weight]))


def _caps(network: Network, step: Step) -> bool:
    """Whether a node is min(max(x, 0), a constant)."""
    if step.key != "Clip":
        return False
    low = step.attributes.get("min")
    if len(step.inputs) > 1 and step.inputs[1] in network.constants:
        low = float(network.constants[step.inputs[1]])
    high = step.attributes.get("max", 0) if len(step.inputs) < 3 else network.constants.get(step.inputs[2])
    return low == 0 and high is not None and float(high) > 0


def _flattens(step: Step) -> bool:
    """Whether a node lays out (n, channels, 1, 1) as (n, channels); the channels of both sides are compared."""
    return step.key in ("Flatten", "Reshape", "Squeeze", "ReduceMean")


def _run(task: ShippingTask, options: Options) -> None:
    pairs = find_pairs(task.network, through_caps=options["relu6"] != "keep")
    if not pairs:
        task.notes.append("equalize: no two layers of this graph have only Relu or nothing between them")
        return
    constants, replaces = dict(task.network.constants), options["relu6"] == "replace"
    room = {} if replaces else below_caps(task, [cap for pair in pairs for cap in pair.caps])
    for _ in range(int(options["rounds"])):
        furthest = max(equalize_pair(pair, constants, room) for pair in pairs)
        if furthest < _CLOSE:
            break
    feed = task.network.tensors(task.feeds[0])
    with torch.no_grad():
        before = task.network.run(feed)
        caps = dict.fromkeys(cap.name for pair in pairs for cap in pair.caps)
        for name in caps if replaces else ():
            task.make_relu(name)
        uncapped = task.network.run(feed)
    for pair in pairs:
        for name in filter(None, (pair.first.weight, pair.first.bias, pair.second.weight)):
            task.put(name, constants[name])
    with torch.no_grad():
        after = task.network.run(feed)
    if not (change := difference(after, uncapped)) <= _SAME:
        raise InputError(
            f"equalize changes what the float graph computes by {change:.2e}, which it must not; its channels are "
            "mixed in a way that is not known here: leave it out"
        )
    text = f"equalize: {len(pairs)} pairs of layers"
    if caps and replaces:
        text += f"; {len(caps)} caps became Relu, which changes the float outputs by {difference(uncapped, before):.2%}"
    task.notes.append(text)


def difference(found: Tensors, wanted: Tensors) -> float:
    """The largest ‖found − wanted‖ / ‖wanted‖ of the outputs that are floats."""
    floats = [(found[name], value) for name, value in wanted.items() if value.is_floating_point()]
    return max((float((a - b).norm() / b.norm().clamp_min(_LEAST)) for a, b in floats), default=0.0)


def below_caps(task: ShippingTask, caps: list[Step]) -> dict[str, Tensor]:
    """By how much each channel may be multiplied before it reaches its cap, by the cap's name, (channels,).

    It is 0 where a channel reaches it already, and must neither grow nor shrink.
    """
    walk, found = Walk(task.network, task.feeds), {}
    for step in caps:
        most = float(walk.network.constants[step.inputs[2]]) if len(step.inputs) > 2 else step.attributes["max"]
        values = torch.stack([given[step.inputs[0]].transpose(0, 1).flatten(1).amax(1) for given in walk.before(step)])
        largest = values.amax(0).clamp_min(_LEAST)  # (channels,)
        found[step.name] = torch.where(largest < most, most / largest, torch.zeros_like(largest))
    return found


def equalize_pair(pair: Pair, constants: dict[str, Tensor], room: dict[str, Tensor]) -> float:
    """Make the channels of two layers alike, as far as there is ``room``; by how much the largest scale was off 1."""
    (a, b), bias = (constants[side.weight] for side in (pair.first, pair.second)), pair.first.bias
    first = by_output(pair.first.step, a).abs().amax(1)  # (channels,)
    second = by_input(pair.second.step, b).abs().amax(1)
    usable = (first > _LEAST) & (second > _LEAST)
    scales = torch.where(usable, (second / first.clamp_min(_LEAST)).sqrt(), torch.ones_like(first))  # 1 / s
    for cap in pair.caps:
        if cap.name in room:
            scales = torch.where(room[cap.name] > 0, torch.minimum(scales, room[cap.name]), torch.ones_like(scales))
            room[cap.name] = room[cap.name] / scales
    constants[pair.first.weight] = scaled_outputs(pair.first.step, a, scales)
    if bias:
        constants[bias] = constants[bias] * scales
    constants[pair.second.weight] = scaled_inputs(pair.second.step, b, 1 / scales)
    return float((scales - 1).abs().max())


METHOD = GraphMethod(
    name="equalize",
    place="before",
    run=_run,
    declared={"rounds": whole_number(40), "relu6": Option("within", choices=("within", "replace", "keep"))},
)
