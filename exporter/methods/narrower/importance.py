"""How much each channel of an ONNX graph matters: from its weights, or from what samples send through it.

- ``weights``: the sum of squares of all weights that go with the channel, in shares of its group's mean (the group L2
  norm of Fang et al. 2023, section 3.3).
- ``norms``: the magnitude of the channel's scales in batch norms (Liu et al. 2017, "Learning Efficient Convolutional
  Networks through Network Slimming").
- ``activations``: at each product that reads the channel, its share of Σ mean(x²) · ‖W_c‖², in shares of the mean.
- ``outputs``: the mean square of how the outputs change when it goes, to first order, in shares of their size:
  E[(ε · J δ)²] of random directions ε (a first-order Taylor criterion, Molchanov et al. 2019, eq. 8, with the outputs'
  own change for the loss: samples need no labels).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.interpreter.network import Feed, Hooks, Network, Step
from edgepress.exporter.methods.narrower.coupling import Coupling, Group, Site
from edgepress.exporter.methods.narrower.reads import DATA_AXIS, Reads

WAYS = ("weights", "norms", "activations", "outputs")
"""The ways to tell how much a channel matters."""

NEED_SAMPLES = frozenset({"activations", "outputs"})

IN_ONE_UNIT = frozenset({"outputs"})
"""The ways whose scores of one group can be held against those of another."""

Scores = NDArray[np.float64]


def scores_of(
    model: onnx.ModelProto, coupling: Coupling, groups: Sequence[Group], way: str, samples: Iterable[Feed], *, seed: int
) -> list[Scores]:
    """The importance of each channel of each group, ≥ 0, float64 (channels,).

    Raises:
        InputError: there is nothing to tell it by.

    """
    if way == "weights":
        squares = _squares(model, coupling)
        return [_in_means(squares[group.channels]) for group in groups]
    if way == "norms":
        return _norms(model, coupling, groups)
    if way == "outputs":
        changes = _changes(model, coupling, samples, seed)
        return [changes[group.channels] for group in groups]
    energies = _energies(model, coupling, samples)
    return [_in_means(energies[group.channels]) for group in groups]


def _in_means(scores: Scores) -> Scores:
    """Scores in shares of their mean, so that groups of different sizes can be compared."""
    return scores / max(float(scores.mean()), 1e-30)


def _squares(model: onnx.ModelProto, coupling: Coupling) -> Scores:
    """Of each channel, the sum of squares of what goes with it, (count,)."""
    total = np.zeros(coupling.count)
    for tensor in model.graph.initializer:
        for place, axis in enumerate(coupling.tensors.get(tensor.name, ())):
            if axis is not None:
                others = tuple(other for other in range(len(tensor.dims)) if other != place)
                own = np.square(numpy_helper.to_array(tensor), dtype=np.float64).sum(others)
                np.add.at(total, coupling.channel_of[axis], own)
    return total


def _norms(model: onnx.ModelProto, coupling: Coupling, groups: Sequence[Group]) -> list[Scores]:
    """Of each channel of each group, the mean magnitude of its scales in batch norms."""
    scales = {node.input[1] for node in model.graph.node if node.op_type == "BatchNormalization"}
    total, times = np.zeros(coupling.count), np.zeros(coupling.count)
    for tensor in model.graph.initializer:
        if tensor.name in scales and (axis := coupling.tensors[tensor.name][0]) is not None:
            np.add.at(total, coupling.channel_of[axis], np.abs(numpy_helper.to_array(tensor)))
            np.add.at(times, coupling.channel_of[axis], 1)
    for group in groups:
        if not times[group.channels].all():
            raise InputError(
                f'by = "norms": the channels of {group.name} have no batch norm (or it is folded into a convolution); '
                'take by = "weights", or "outputs" with samples'
            )
    return [total[group.channels] / times[group.channels] for group in groups]


def _energies(model: onnx.ModelProto, coupling: Coupling, samples: Iterable[Feed]) -> Scores:
    """Of each channel, its share of what the products that read it add up, summed over these, (count,)."""
    network, reads = Network(model), Reads(coupling)
    squares: dict[Site, Tensor] = {}

    def read(step: Step, index: int, value: Tensor) -> Tensor:
        if (site := reads.site(step, index)) is not None:
            own = value.detach().double().square().movedim(DATA_AXIS[step.key], 0).flatten(1).mean(1)
            own = own.reshape(-1, len(reads.channels(site))).sum(0)  # groups of a convolution read alike
            squares[site] = own if site not in squares else squares[site] + own
        return value

    for _ in network.batches(samples, hooks=Hooks(read=read)):
        pass
    total = np.zeros(coupling.count)
    for site, mean in squares.items():
        weight = network.constants[site.tensor].double().square().movedim(site.axis, 0).flatten(1).sum(1)
        energy = (mean * weight).numpy()
        np.add.at(total, reads.channels(site), energy / max(float(energy.sum()), 1e-30))
    return total


def _changes(model: onnx.ModelProto, coupling: Coupling, samples: Iterable[Feed], seed: int) -> Scores:
    """Of each channel, the mean square of the outputs' first-order change without it, (count,)."""
    network, reads = Network(model), Reads(coupling)
    random = torch.Generator().manual_seed(seed)
    total, count = np.zeros(coupling.count), 0
    for feed in samples:
        gates: list[tuple[Site, Tensor]] = []

        def read(step: Step, index: int, value: Tensor, gates: list[tuple[Site, Tensor]] = gates) -> Tensor:
            if (site := reads.site(step, index)) is None:
                return value
            shape = [1] * value.dim()
            shape[0], shape[DATA_AXIS[step.key]] = value.shape[0], value.shape[DATA_AXIS[step.key]]
            gates.append((site, torch.ones(shape, requires_grad=True)))
            return value * gates[-1][1]

        outputs = network.run(network.tensors(feed), hooks=Hooks(read=read)).values()
        grads = torch.autograd.grad(drawn_change(outputs, random), [gate for _, gate in gates], allow_unused=True)
        rows = max((gate.shape[0] for _, gate in gates), default=0)
        change = np.zeros((coupling.count, rows))
        for (site, _), grad in zip(gates, grads, strict=True):
            if grad is not None:
                channels = reads.channels(site)
                own = grad.reshape(grad.shape[0], -1, len(channels)).sum(1).double().numpy()  # (batch, channels)
                np.add.at(change[:, : len(own)], channels, own.T)
        total += np.square(change).sum(1)
        count += rows
    return total / max(count, 1)


def drawn_change(outputs: Iterable[Tensor], random: torch.Generator) -> Tensor:
    """Σ of each sample's outputs in a random direction, in shares of the outputs' size: what is derived to see changes.

    What an output is of, the square of a sample's derivative is on average of how much it would change.
    """
    total = torch.zeros(())
    for y in outputs:
        if y.is_floating_point():
            drawn = torch.randn(y.shape, generator=random) / y.detach().square().mean().sqrt().clamp_min(1e-9)
            total = total + (y * drawn).sum() / y[0].numel() ** 0.5
    return total
