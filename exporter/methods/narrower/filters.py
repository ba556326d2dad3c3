"""Convolutions as depthwise filters and a 1 × 1 convolution, and which of the filters are worth what they take.

The kernels W[o, i] (height, width) that read one channel i, of all outputs o, are much alike: few filters span most of
them, W[o, i] ≈ Σ_t P[o, t] F[t] (Guo et al. 2018, "Network Decoupling", section 3.2). The filters of a channel come
from a singular value decomposition in which what the kernel sees there varies alike in every direction, so that each
makes something else than the others, of variance 1::

    x ─ Conv, height × width ─ y

    x ─ Gather, a channel for each filter ─ Conv, depthwise, height × width ─ Conv, 1 × 1 ─ y

A filter takes height · width + outputs multiply-adds at each place, the convolution height · width · inputs · outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.network import Feed, Hooks, Network, Step
from edgepress.exporter.methods.narrower.coupling import Coupling
from edgepress.exporter.methods.narrower.importance import drawn_change
from edgepress.exporter.methods.narrower.reads import constant_weight, numbers, what_it_sees
from edgepress.exporter.methods.narrower.trace import node_name

_FLOOR = 1e-6  # of the largest eigenvalue of moments: directions in which nothing varies
_PLACES = 100  # for each number that a kernel sees, so many of each feed are enough

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Filters:
    """A convolution's filters, by channel: ``channels`` (n,) that each reads, ``filters`` (n, height, width), and the
    ``mixing`` (outputs, n) of what they make. ``scores`` (n,) are the outputs' mean square change without each.
    """

    channels: NDArray[np.int64]
    filters: Floats
    mixing: Floats
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.channels)

    @property
    def kernels(self) -> tuple[int, int, int, int]:
        """The shape of the convolution's weight, (outputs, inputs, height, width)."""
        _, height, width = self.filters.shape
        return len(self.mixing), int(self.channels[-1]) + 1, height, width

    def some(self, places: NDArray[np.int64]) -> Filters:
        """These filters only."""
        return Filters(self.channels[places], self.filters[places], self.mixing[:, places], self.scores[places])


def find_convolutions(model: onnx.ModelProto) -> list[str]:
    """The nodes that can be written so, in the graph's order: of one group, with a larger kernel than 1 × 1."""
    network = Network(model)
    readers = Counter(name for step in network.steps for name in (*step.inputs, *step.reads))
    found = []
    for step in network.steps:
        weight = constant_weight(step, network) if step.key == "Conv" else None
        if weight is not None and weight[0, 0].numel() > 1 and readers[step.inputs[1]] == 1:
            found.append(step.name)
    return found


def find_filters(
    model: onnx.ModelProto, names: Collection[str], samples: Sequence[Feed], *, seed: int
) -> dict[str, Filters]:
    """All filters of these convolutions: together they compute the same. ``samples`` tell what they are worth."""
    network = Network(model)
    steps = {step.name: step for step in network.steps if step.name in names}
    moments = _moments(network, steps, samples)
    parts = {name: _decomposed(network.constants[step.inputs[1]], moments[name]) for name, step in steps.items()}
    scores = _scores(network, steps, parts, samples, seed)
    found = {}
    for name, (channels, filters, mixing) in parts.items():
        found[name] = Filters(channels.numpy(), filters.numpy(), mixing.numpy(), scores[name].numpy())
    return found


def _moments(network: Network, steps: Mapping[str, Step], samples: Iterable[Feed]) -> dict[str, Tensor]:
    """Of each convolution, the covariance of what its kernel sees of each channel, (inputs, kernel, kernel)."""
    sums: dict[str, list[Tensor]] = {}

    def read(step: Step, index: int, value: Tensor) -> Tensor:
        if index == 0 and step.name in steps:
            weight = network.constants[step.inputs[1]]
            places = max(1, value[0, 0].numel())
            seen = what_it_sees(step, value[: 1 + _PLACES * numbers(step, weight) // places], weight)
            seen = seen.reshape(value.shape[1], -1, seen.shape[1]).double()  # (inputs, kernel, places)
            here = [seen @ seen.transpose(1, 2), seen.sum(2), torch.tensor(float(seen.shape[2]))]
            old = sums.get(step.name)
            sums[step.name] = here if old is None else [a + b for a, b in zip(old, here, strict=True)]
        return value

    for _ in network.batches(samples, hooks=Hooks(read=read)):
        pass
    found = {}
    for name, (squares, total, count) in sums.items():
        mean = total / count
        found[name] = squares / count - mean[:, :, None] * mean[:, None, :]
    return found


def _decomposed(weight: Tensor, moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A weight (outputs, inputs, height, width) as channels (n,), filters (n, height, width) and mixing (outputs, n).

    ``moments`` are (inputs, kernel, kernel). Each channel has as many filters as its kernels can need.
    """
    outputs, inputs, *kernel = weight.shape
    values, vectors = torch.linalg.eigh(moments)
    values = values.clamp_min(_FLOOR * values[:, -1:].clamp_min(torch.finfo(torch.float32).tiny))
    root = (vectors * values.sqrt()[:, None]) @ vectors.transpose(1, 2)  # (inputs, kernel, kernel)
    back = (vectors * values.rsqrt()[:, None]) @ vectors.transpose(1, 2)
    kernels = weight.double().flatten(2).transpose(0, 1)  # (inputs, outputs, kernel)
    left, sizes, right = torch.linalg.svd(kernels @ root, full_matrices=False)  # (inputs, outputs | kernel, rank)
    rank = sizes.shape[1]
    filters = (right @ back).reshape(inputs * rank, *kernel)
    mixing = (left * sizes[:, None]).transpose(0, 1).reshape(outputs, inputs * rank)
    return torch.arange(inputs).repeat_interleave(rank), filters.float(), mixing.float()


def _scores(
    network: Network,
    steps: Mapping[str, Step],
    parts: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    samples: Iterable[Feed],
    seed: int,
) -> dict[str, Tensor]:
    """Of each filter, the mean square of the outputs' first-order change without it, (n,) float64."""
    random = torch.Generator().manual_seed(seed)
    total = {name: torch.zeros(len(channels), dtype=torch.float64) for name, (channels, *_) in parts.items()}
    made_by = {step.outputs[0]: name for name, step in steps.items()}
    count = 0
    for feed in samples:
        seen: dict[str, Tensor] = {}
        changes: dict[str, Tensor] = {}

        def read(step: Step, index: int, value: Tensor, seen: dict[str, Tensor] = seen) -> Tensor:
            if index == 0 and step.name in steps:
                seen[step.name] = value.detach()
            return value

        def made(name: str, value: Tensor, changes: dict[str, Tensor] = changes) -> Tensor:
            if name not in made_by:
                return value
            changes[made_by[name]] = torch.zeros_like(value, requires_grad=True)
            return value + changes[made_by[name]]

        outputs = network.run(network.tensors(feed), hooks=Hooks(made=made, read=read)).values()
        grads = torch.autograd.grad(drawn_change(outputs, random), list(changes.values()), allow_unused=True)
        rows = 0
        for name, grad in zip(changes, grads, strict=True):
            if grad is not None:
                channels, filters, mixing = parts[name]
                filtered = _depthwise(steps[name], seen[name][:, channels], filters)  # (rows, n, …)
                wanted = functional.conv2d(grad, mixing.T[:, :, None, None])
                total[name] += (filtered * wanted).sum((2, 3)).double().square().sum(0)
            rows = max(rows, len(seen[name]))
        count += rows
    return {name: value / max(count, 1) for name, value in total.items()}


def _depthwise(step: Step, x: Tensor, filters: Tensor) -> Tensor:
    pads = [int(pad) for pad in step.call.get("pads", [0] * 4)]
    strides, dilations = (step.call.get(name, [1, 1]) for name in ("strides", "dilations"))
    around = functional.pad(x, (pads[1], pads[3], pads[0], pads[2]))
    return functional.conv2d(
        around, filters[:, None], stride=tuple(strides), dilation=tuple(dilations), groups=len(filters)
    )


# ---- which stay -----------------------------------------------------------------------------------------------------


def cost_of(coupling: Coupling, name: str, kernels: Sequence[int], of: str) -> tuple[int, int]:
    """What a convolution takes as it is, and what each filter of it takes, in multiply-adds or parameters.

    ``kernels`` is the shape of its weight, (outputs, inputs, height, width).
    """
    outputs, inputs, height, width = kernels
    places = 1
    if of == "multiply_adds":
        (work,) = (one for one in coupling.work if one.node == name)
        whole = work.factor * int(np.prod([len(labels) for labels in work.labels], dtype=np.int64))
        places = whole // (outputs * inputs * height * width)
    return places * outputs * inputs * height * width, places * (height * width + outputs)


def keep_filters(
    found: Mapping[str, Filters], costs: Mapping[str, tuple[int, int]], most: float, multiple: int
) -> dict[str, NDArray[np.int64]] | None:
    """Which filters stay so that these convolutions take ``most`` together, ascending; None where that is too little.

    Filters go in blocks of ``multiple``, by what the outputs lose for what is saved: the sum of that over all
    convolutions, at one price of a unit of work, is the least. A convolution that is cheapest as it is is left out.
    """
    order = {name: np.argsort(-own.scores, kind="stable") for name, own in found.items()}
    counts = {name: np.append(np.arange(multiple, len(own), multiple), len(own)) for name, own in found.items()}
    lost = {
        name: own.scores.sum() - np.cumsum(own.scores[order[name]])[counts[name] - 1] for name, own in found.items()
    }

    def at(price: float) -> tuple[dict[str, int], float]:
        chosen, total = {}, 0.0
        for name, (whole, each) in costs.items():
            losses = lost[name] + price * each * counts[name]
            best = int(losses.argmin())
            if losses[best] < price * whole:
                chosen[name] = int(counts[name][best])
            total += each * chosen[name] if name in chosen else whole
        return chosen, total

    least = sum(min(whole, each * int(counts[name][0])) for name, (whole, each) in costs.items())
    if least > most:
        return None
    low, high = -60.0, 60.0  # powers of 2: at the last, work is all that counts
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if at(2.0**middle)[1] <= most else (middle, high)
    return {name: np.sort(order[name][:count]) for name, count in at(2.0**high)[0].items()}


# ---- the graph ------------------------------------------------------------------------------------------------------


def written_as_filters(model: onnx.ModelProto, chosen: Mapping[str, Filters]) -> onnx.ModelProto:
    """``model`` with these convolutions, by their nodes' names, written as their filters; outputs keep their names."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    writer = _Writer(new)
    nodes, gone = [], set()
    for node in new.graph.node:
        own = chosen.get(node_name(node)) if node.op_type == "Conv" else None
        if own is None:
            nodes.append(node)
        else:
            gone.add(node.input[1])
            nodes += writer.nodes(node, own)
    del new.graph.node[:]
    new.graph.node.extend(nodes)
    left = [tensor for tensor in new.graph.initializer if tensor.name not in gone]
    del new.graph.initializer[:]
    new.graph.initializer.extend(left)
    return new


class _Writer:
    """Adds constants and names to a graph that are not there yet."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._constants = model.graph.initializer
        self._inputs = {tensor.name: tensor.dims[1] for tensor in self._constants if len(tensor.dims) > 1}
        self._taken = {tensor.name for tensor in self._constants}
        self._taken |= {name for node in model.graph.node for name in (node.name, *node.input, *node.output)}

    def nodes(self, node: onnx.NodeProto, own: Filters) -> list[onnx.NodeProto]:
        """What stands for a convolution; there is no Gather where every channel has one filter."""
        output, x, found = node.output[0], node.input[0], []
        if not np.array_equal(own.channels, np.arange(self._inputs[node.input[1]])):
            gathered, indices = self._name(f"{output}.gathered"), self._constant(f"{output}.channels", own.channels)
            found.append(helper.make_node("Gather", [x, indices], [gathered], name=gathered, axis=1))
            x = gathered
        filtered, filters = self._name(f"{output}.filtered"), self._constant(f"{output}.filters", own.filters[:, None])
        depthwise = helper.make_node("Conv", [x, filters], [filtered], name=filtered, group=len(own))
        depthwise.attribute.extend(entry for entry in node.attribute if entry.name != "group")
        mixing = self._constant(f"{output}.mixing", own.mixing[:, :, None, None])
        bias = node.input[2] if len(node.input) > 2 else ""
        bias = bias or self._constant(f"{output}.mean", np.zeros(len(own.mixing), np.float32))
        return [*found, depthwise, helper.make_node("Conv", [filtered, mixing, bias], [output], name=node.name)]

    def _constant(self, base: str, value: NDArray[np.generic]) -> str:
        name = self._name(base)
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _name(self, base: str) -> str:
        name, count = base, 1
        while name in self._taken:
            count += 1
            name = f"{base}#{count}"
        self._taken.add(name)
        return name
