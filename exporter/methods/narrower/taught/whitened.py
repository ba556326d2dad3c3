"""Which coordinates are white to a product: those in which what it sees varies alike in every direction.

What a product sees, x, varies much in some directions and hardly in others: neighbouring pixels and channels go
together. Gradients of W are as uneven, and steps that suit the former spoil what the latter had learned. With
C = E[x xᵀ] and W = W₀ + D C^(−1/2), D learns alike everywhere (Desjardins et al. 2015, "Natural Neural Networks").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from edgepress.exporter.interpreter.network import Feed, Hooks, Network, Step
from edgepress.exporter.methods.narrower.reads import (
    DATA_AXIS,
    constant_weight,
    numbers,
    rows_first,
    what_it_sees,
)
from edgepress.exporter.streams.distilling import Frame

_MOST = 2048  # numbers that a product may see: a step multiplies by a matrix of their square
_PLACES = 100  # for each number that a product sees, so many of each feed are enough
_LEAST = 0.03  # of the mean of C's eigenvalues is added to each


def frames_of(network: Network, names: Collection[str], feeds: Iterable[Feed]) -> dict[str, Frame]:
    """A frame for each of these constants that one product reads, and nothing else, by what ``feeds`` send there."""
    readers = Counter(name for step in network.steps for name in (*step.inputs, *step.reads))
    products: dict[str, Step] = {}  # by node
    for step in network.steps:
        weight = constant_weight(step, network)
        if weight is None or step.inputs[1] not in names or readers[step.inputs[1]] > 1:
            continue
        if numbers(step, weight) <= _MOST:
            products[step.name] = step
    total: dict[str, Tensor] = {}

    def read(step: Step, index: int, value: Tensor) -> Tensor:
        if index == 0 and step.name in products:
            weight = network.constants[step.inputs[1]]
            places = max(1, value[0].numel() // value.shape[DATA_AXIS[step.key]])
            some = value[: 1 + _PLACES * numbers(step, weight) // places]
            seen = what_it_sees(step, some, weight)
            moment = (seen @ seen.T).double() / seen.shape[1]
            total[step.name] = total[step.name] + moment if step.name in total else moment
        return value

    for _ in network.batches(feeds, hooks=Hooks(read=read)):
        pass
    return {products[name].inputs[1]: Frame(_root(found), rows_first(products[name])) for name, found in total.items()}


def _root(second: Tensor) -> Tensor:
    """C^(−1/2) of these moments, in units of the mean eigenvalue, float32 (numbers, numbers)."""
    values, vectors = torch.linalg.eigh(second)
    mean = values.mean().clamp_min(torch.finfo(torch.float32).tiny)
    root: Tensor = (vectors * (values.clamp_min(0) / mean + _LEAST).rsqrt()) @ vectors.T
    return root.float()
